// The timeline: actors' names beside the canvas, and how one moves about in it.

const LEAST_SPAN = 2;
const CLICK = 4;

/** Makes an element with a class and a text; text is never markup. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}

/** The names of the tracks, as a tree of which only what is in sight has elements. */
class Tree {
  constructor(app) {
    this.app = app;
    this.element = document.getElementById("tree");
    this.spacer = this.element.querySelector(".spacer");
    this.items = [];
    this.active = 0;
    this.element.addEventListener("scroll", () => app.scrollTo(this.element.scrollTop));
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("click", (event) => this.click(event));
    this.element.addEventListener("focus", () => app.refresh());
    this.element.addEventListener("blur", () => app.refresh());
  }

  get rows() {
    return this.app.tracks.rows;
  }

  draw() {
    const { element, rows } = this;
    this.spacer.style.height = `${rows.length * ROW}px`;
    this.active = Math.max(0, Math.min(this.active, rows.length - 1));
    const first = Math.floor(element.scrollTop / ROW);
    const shown = Math.min(rows.length - first, Math.ceil(element.clientHeight / ROW) + 1);
    while (this.items.length < shown) this.addItem();
    this.items.forEach((item, k) => {
      item.hidden = k >= shown;
      if (!item.hidden) this.fill(item, first + k);
    });
    const active = this.items[this.active - first];
    if (active && !active.hidden) element.setAttribute("aria-activedescendant", active.id);
    else element.removeAttribute("aria-activedescendant");
  }

  addItem() {
    const item = make("div", "track");
    item.id = `track-${this.items.length}`;
    item.setAttribute("role", "treeitem");
    item.append(make("span", "twist"), make("span", "name"), make("span", "note"));
    this.element.append(item);
    this.items.push(item);
  }

  fill(item, row) {
    const track = this.rows[row];
    const [twist, name, note] = item.children;
    const folded = track.folded && !this.app.tracks.unfolded;
    const open = track.children.length ? !folded : null;
    item.style.transform = `translateY(${row * ROW}px)`;
    item.style.paddingLeft = `${6 + track.depth * 14}px`;
    item.dataset.row = row;
    item.dataset.severity = SEVERITIES[track.severity];
    item.classList.toggle("active", row === this.active && document.activeElement === this.element);
    item.setAttribute("aria-level", track.depth + 1);
    if (open === null) item.removeAttribute("aria-expanded");
    else item.setAttribute("aria-expanded", open);
    twist.textContent = open === null ? "" : open ? "▾" : "▸";
    name.textContent = track.name || "(no name)";
    note.textContent = track.stream ? `#${track.stream.id} ${track.stream.state}`
      : open === false ? `${thousands(this.below(track))}` : "";
    note.dataset.state = track.stream?.state ?? "";
    item.title = this.fullName(track);
  }

  below(track) {
    let count = 0;
    const stack = [...track.children];
    while (stack.length) {
      count += 1;
      stack.push(...stack.pop().children);
    }
    return count;
  }

  fullName(track) {
    const words = [];
    for (let each = track; each; each = each.parent) words.unshift(each.name);
    return words.join("/");
  }

  fold(track, folded) {
    if (!track.children.length || track.folded === folded) return;
    track.folded = folded;
    this.app.layOut();
  }

  click(event) {
    const item = event.target.closest(".track");
    if (!item) return;
    this.active = Number(item.dataset.row);
    const track = this.rows[this.active];
    this.fold(track, !track.folded);
    this.app.refresh();
  }

  key(event) {
    const track = this.rows[this.active];
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.move(moves[event.key]);
    else if (!track) return;
    else if (event.key === "Enter" || event.key === " ") this.fold(track, !track.folded);
    else if (event.key === "ArrowRight") {
      if (track.folded) this.fold(track, false);
      else this.move(track.children.length ? 1 : 0);
    } else if (event.key === "ArrowLeft") {
      if (track.children.length && !track.folded) this.fold(track, true);
      else if (track.parent) this.move(this.rows.indexOf(track.parent) - this.active);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(by) {
    this.active = Math.max(0, Math.min(this.rows.length - 1, this.active + by));
    this.reveal(this.active);
    this.app.refresh();
  }

  reveal(row) {
    const { element } = this;
    const room = element.clientHeight - ROW;
    if (row * ROW < element.scrollTop) element.scrollTop = Math.max(0, (row - 1) * ROW);
    else if (row * ROW > element.scrollTop + room) element.scrollTop = (row + 1) * ROW - room;
  }
}

/** The canvas with its pointer, wheel and keys. */
class Timeline {
  constructor(app) {
    this.app = app;
    this.stage = document.getElementById("stage");
    this.tip = document.getElementById("tip");
    this.scene = new Scene(app, document.getElementById("canvas"));
    this.pointers = new Map();
    this.moved = 0;
    new ResizeObserver(() => this.resize()).observe(this.stage);
    const { stage } = this;
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.release(event));
    stage.addEventListener("pointerleave", () => this.leave());
    stage.addEventListener("keydown", (event) => this.key(event));
  }

  resize() {
    const { clientWidth, clientHeight } = this.stage;
    this.scene.resize(clientWidth, clientHeight, window.devicePixelRatio || 1);
    this.app.refresh();
  }

  point(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  look(from, to) {
    const { app } = this;
    const most = app.whole * 1.3;
    const span = Math.min(most, Math.max(LEAST_SPAN, to - from));
    const middle = Math.min(app.whole * 1.05, Math.max(-app.whole * 0.05, (from + to) / 2));
    app.view = { from: middle - span / 2, to: middle + span / 2 };
    app.refresh();
  }

  zoom(factor, part = 0.5) {
    const { from, to } = this.app.view;
    const span = to - from;
    const wide = Math.min(this.app.whole * 1.3, Math.max(LEAST_SPAN, span * factor));
    const at = from + part * span;
    this.look(at - part * wide, at - part * wide + wide);
  }

  pan(part) {
    const { from, to } = this.app.view;
    this.look(from + part * (to - from), to + part * (to - from));
  }

  fit() {
    const { whole } = this.app;
    this.look(-whole * 0.02, whole * 1.04);
  }

  /** Brings an event into sight, and near enough to tell it from its neighbours. */
  show(i) {
    const { app } = this;
    const [from, to] = [app.trace.told[i], app.trace.until(i)];
    const span = app.view.to - app.view.from;
    if (from < app.view.from + span * 0.02 || to > app.view.to - span * 0.08) {
      const wide = Math.max(span, (to - from) * 1.4);
      this.look((from + to) / 2 - wide / 2, (from + to) / 2 + wide / 2);
    }
    const rows = [app.tracks.rowOf[app.tracks.from[i]], app.tracks.rowOf[app.tracks.to[i]]];
    for (const row of rows) if (row !== NONE) app.tree.reveal(row);
  }

  /** Shows some events at a glance, with a margin. */
  showAll(events) {
    let from = Infinity;
    let to = 0;
    for (const i of events) {
      from = Math.min(from, this.app.trace.told[i]);
      to = Math.max(to, this.app.trace.until(i));
    }
    if (from === Infinity) return;
    const margin = Math.max(5, (to - from) * 0.15);
    this.look(from - margin, to + margin * 2);
  }

  wheel(event) {
    event.preventDefault();
    const [x] = this.point(event);
    const lines = event.deltaMode === 1 ? 30 : 1;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      this.pan(((event.deltaX || event.deltaY) * lines) / this.scene.width);
    } else {
      // A pinch comes as a wheel with the control key, in small steps.
      this.zoom(Math.exp(event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), x / this.scene.width);
    }
  }

  press(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.point(event));
    this.moved = this.pointers.size > 1 ? CLICK : 0;
    this.fromOverview = this.point(event)[1] < OVERVIEW;
    if (this.fromOverview) this.center(event);
  }

  center(event) {
    const { app } = this;
    const [x] = this.point(event);
    const at = (x / this.scene.width) * app.whole;
    const span = Math.min(app.view.to - app.view.from, app.whole);
    this.look(at - span / 2, at + span / 2);
  }

  drag(event) {
    const [x, y] = this.point(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.hover(x, y, event);
      return;
    }
    if (this.fromOverview) {
      this.center(event);
      return;
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const [[, [other]]] = others;
      const [was, now] = [Math.abs(before[0] - other), Math.abs(x - other)];
      if (was > 8 && now > 8) this.zoom(was / now, (x + other) / 2 / this.scene.width);
    } else {
      this.moved += Math.hypot(x - before[0], y - before[1]);
      if (this.moved < CLICK) return;
      this.pan((before[0] - x) / this.scene.width);
      this.app.tree.element.scrollTop += before[1] - y;
    }
    this.pointers.set(event.pointerId, [x, y]);
  }

  release(event) {
    const pressed = this.pointers.delete(event.pointerId);
    if (!pressed || event.type !== "pointerup" || this.moved >= CLICK || this.fromOverview) return;
    const [x, y] = this.point(event);
    const found = this.scene.at(x, y);
    if (found !== NONE) this.app.select(found);
  }

  hover(x, y, event) {
    const { app, tip } = this;
    app.pointer = x;
    app.refresh();
    const found = this.scene.at(x, y);
    this.stage.classList.toggle("on", found !== NONE);
    tip.hidden = found === NONE;
    if (found === NONE) return;
    const { trace } = app;
    tip.replaceChildren(
      make("strong", SEVERITIES[app.problems.severity[found]], trace.typeOf(found)),
      make("span", "", `${trace.names[trace.sender[found]]} → ${trace.names[trace.receiver[found]]}`),
      make("span", "text", trace.textOf(found)),
      make("span", "muted", `${moment(trace.told[found])} s`),
    );
    const box = tip.getBoundingClientRect();
    const left = Math.max(4, Math.min(window.innerWidth - box.width - 4, event.clientX + 14));
    const top = event.clientY + 18 + box.height > window.innerHeight ? event.clientY - box.height - 12
      : event.clientY + 18;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  }

  leave() {
    this.app.pointer = null;
    this.tip.hidden = true;
    this.app.refresh();
  }

  key(event) {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const { view, matches, trace } = this.app;
    const middle = (view.from + view.to) / 2;
    let best = this.app.selected;
    let least = Infinity;
    for (const i of matches) {
      const distance = Math.abs(trace.told[i] - middle);
      if (distance < least) [best, least] = [i, distance];
    }
    if (best !== NONE) this.app.select(best, { focus: true });
  }
}
