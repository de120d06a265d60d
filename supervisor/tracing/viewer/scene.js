// What the timeline's canvas shows. Only what is in sight is drawn; where that is too much, it is counted by pixel.

const ROW = 24;
const OVERVIEW = 36;
const AXIS = 24;
const HEAD = OVERVIEW + AXIS;
const SPARSE = 1500;
const LABELLED = 260;
const COLORS = ["bg", "panel", "stripe", "line", "text", "muted", "arrow", "faint", "accent", "error", "stall", "life",
  "chain", "stall-mark"];

/** The colors of the style sheet, as a canvas takes them. */
function readColors() {
  const probe = document.getElementById("probe");
  const colors = {};
  for (const name of COLORS) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  return colors;
}

/** Draws one state of the application on a canvas. */
class Scene {
  constructor(app, canvas) {
    this.app = app;
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.width = 0;
    this.height = 0;
    this.colors = readColors();
    this.ruler = new Ruler(this);
    const { trace } = app;
    // From when on an event may still be in sight that was told earlier: the latest end so far.
    this.reach = new Float64Array(trace.count);
    let latest = 0;
    for (let i = 0; i < trace.count; i++) this.reach[i] = latest = Math.max(latest, trace.until(i));
  }

  resize(width, height, ratio) {
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  x(time) {
    const { from, to } = this.app.view;
    return ((time - from) / (to - from)) * this.width;
  }

  y(row) {
    return HEAD + row * ROW + ROW / 2 - this.app.scroll;
  }

  /** The first and last index of what may be in sight. */
  inSight() {
    const { view, trace } = this.app;
    const search = (array, time) => {
      let low = 0;
      let high = trace.count;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (array[middle] < time) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    return [search(this.reach, view.from), search(trace.told, view.to)];
  }

  draw() {
    const { context, width, height, colors, app } = this;
    context.fillStyle = colors.bg;
    context.fillRect(0, 0, width, height);
    context.save();
    context.beginPath();
    context.rect(0, HEAD, width, height - HEAD);
    context.clip();
    this.drawRows();
    this.drawGrid();
    this.drawLives();
    const shown = this.gather();
    if (shown.count > SPARSE) this.drawCounted(shown);
    else {
      this.drawArrows(shown);
      this.drawWires(shown);
    }
    this.drawChain();
    this.drawLabels(shown);
    if (app.pointer !== null) this.drawPointer();
    context.restore();
    this.ruler.draw();
  }

  drawRows() {
    const { context, colors, app } = this;
    const first = Math.max(0, Math.floor(app.scroll / ROW));
    const last = Math.min(app.tracks.rows.length, Math.ceil((app.scroll + this.height - HEAD) / ROW));
    context.fillStyle = colors.stripe;
    for (let row = first; row < last; row++) {
      if (row % 2 === 0) context.fillRect(0, this.y(row) - ROW / 2, this.width, ROW);
    }
    this.rows = [first, last];
  }

  drawGrid() {
    const { context, colors } = this;
    const { base, ticks } = this.ruler.ticks();
    context.fillStyle = colors.line;
    for (const tick of ticks) context.fillRect(Math.round(this.x(base + tick)), HEAD, 1, this.height);
  }

  /** A line for as long as each actor spoke; an amber one where its stream has fallen silent. */
  drawLives() {
    const { context, colors, app } = this;
    for (let row = this.rows[0]; row < this.rows[1]; row++) {
      const track = app.tracks.rows[row];
      const y = Math.round(this.y(row));
      const left = Math.max(0, this.x(track.first));
      const right = Math.min(this.width, this.x(track.last));
      if (right < left) continue;
      context.fillStyle = colors.life;
      context.fillRect(left, y - 1, Math.max(2, right - left), 2);
    }
    for (const problem of app.problems.all) {
      if (!problem.stream || problem.severity !== STALL) continue;
      const track = app.trackOf(problem.stream);
      const row = track ? app.tracks.rowOf[track.number] : NONE;
      if (row < this.rows[0] || row >= this.rows[1]) continue;
      const left = Math.max(0, this.x(problem.stream.last));
      const right = Math.min(this.width, this.x(app.trace.ends.get(problem.stream.process)));
      if (right <= left) continue;
      context.fillStyle = colors["stall-mark"];
      for (let x = left; x < right; x += 8) context.fillRect(x, this.y(row) - 1, Math.min(5, right - x), 3);
    }
  }

  /** The events in sight, as indexes, and how many of them the filter left. */
  gather() {
    const { app } = this;
    const { trace, tracks, view } = app;
    const [begin, end] = this.inSight();
    const events = [];
    let count = 0;
    for (let i = begin; i < end; i++) {
      if (this.reach[i] >= view.from && trace.until(i) < view.from) continue;
      const from = tracks.rowOf[tracks.from[i]];
      const to = tracks.rowOf[tracks.to[i]];
      if (from === NONE && to === NONE) continue;
      const [low, high] = from < to ? [from, to] : [to, from];
      if (high < this.rows[0] || low >= this.rows[1]) continue;
      events.push(i);
      count += app.matched[i];
    }
    return { events, count };
  }

  /** Where an event is drawn: x and y of telling and of taking. */
  place(i) {
    const { trace, tracks } = this.app;
    const from = tracks.rowOf[tracks.from[i]];
    const to = tracks.rowOf[tracks.to[i]];
    return [this.x(trace.told[i]), this.y(from === NONE ? to : from), this.x(trace.until(i)),
      this.y(to === NONE ? from : to)];
  }

  color(i) {
    const { colors, app } = this;
    return [colors.arrow, colors["stall-mark"], colors.error][app.problems.severity[i]];
  }

  drawArrows({ events }) {
    const { app } = this;
    const groups = new Map();
    const put = (color, width, i) => {
      const key = `${width} ${color}`;
      if (!groups.has(key)) groups.set(key, { color, width, events: [] });
      groups.get(key).events.push(i);
    };
    const dim = app.chain.length > 0;
    for (const i of events) {
      if (!app.matched[i]) {
        if (events.length <= SPARSE) put(this.colors.faint, 1, i);
      } else if (app.problems.severity[i]) put(this.color(i), 2, i);
      else put(dim ? this.colors.life : this.colors.arrow, 1.25, i);
    }
    // The faint ones first, those with problems last.
    for (const group of [...groups.values()].sort((a, b) => a.width - b.width)) {
      this.strokeArrows(group.events, group.color, group.width);
    }
  }

  /** From where frames were sent at one end to where they arrived at the other: broken lines, on the way. */
  drawWires({ events }) {
    const { context, colors } = this;
    context.strokeStyle = colors.muted;
    context.lineWidth = 1;
    context.setLineDash([5, 4]);
    context.beginPath();
    for (const i of events) {
      for (const [x1, y1, x2, y2] of this.wiresTo(i)) {
        context.moveTo(x1, y1);
        context.lineTo(x2, y2);
      }
    }
    context.stroke();
    context.setLineDash([]);
  }

  /** Where the broken lines are that end at an event: none where the filter or a fold hides either end. */
  wiresTo(i) {
    const { app } = this;
    const { tracks } = app;
    const row = tracks.rowOf[tracks.to[i]];
    if (row === NONE || !app.matched[i]) return [];
    const found = [];
    for (const sent of app.trace.sentFor(i)) {
      const from = tracks.rowOf[tracks.from[sent]];
      if (from === NONE || !app.matched[sent]) continue;
      found.push([this.x(app.trace.told[sent]), this.y(from), this.x(app.trace.told[i]), this.y(row)]);
    }
    return found;
  }

  strokeArrows(events, color, width) {
    const { context } = this;
    context.strokeStyle = context.fillStyle = color;
    context.lineWidth = width;
    context.beginPath();
    const places = events.map((i) => this.place(i));
    for (const [x1, y1, x2, y2] of places) {
      context.moveTo(x1, y1);
      context.lineTo(x2, y2);
    }
    context.stroke();
    context.beginPath();
    for (const [x1, y1, x2, y2] of places) this.traceHead(x1, y1, x2, y2, width);
    context.fill();
  }

  /** A dot where it was told, and the head of an arrow where it was taken. */
  traceHead(x1, y1, x2, y2, width) {
    const { context } = this;
    context.rect(x1 - width, y1 - width, 2 * width, 2 * width);
    const length = Math.hypot(x2 - x1, y2 - y1);
    const size = 4 + 1.5 * width;
    if (length < size) {
      context.moveTo(x2 + 2 + width, y2);
      context.arc(x2, y2, 2 + width, 0, 7);
      return;
    }
    const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
    const [bx, by] = [x2 - dx * size, y2 - dy * size];
    context.moveTo(x2, y2);
    context.lineTo(bx - dy * size * 0.42, by + dx * size * 0.42);
    context.lineTo(bx + dy * size * 0.42, by - dx * size * 0.42);
    context.closePath();
  }

  /** Bars of how much each actor said and heard, and faint lines between them; problems are drawn one by one. */
  drawCounted({ events }) {
    const { context, colors, app } = this;
    const { trace, tracks } = app;
    const columns = Math.ceil(this.width / 2) + 1;
    const [first, last] = this.rows;
    const counts = new Uint32Array((last - first) * columns);
    const links = new Set();
    const problems = [];
    const lastPlace = new Map();
    let most = 1;
    for (const i of events) {
      if (!app.matched[i]) continue;
      const column = Math.min(columns - 1, Math.max(0, this.x(trace.told[i]) >> 1));
      const from = tracks.rowOf[tracks.from[i]];
      const to = tracks.rowOf[tracks.to[i]];
      for (const row of from === to ? [from] : [from, to]) {
        if (row < first || row >= last) continue;
        const place = (row - first) * columns + column;
        counts[place] += 1;
        if (counts[place] > most) most = counts[place];
      }
      if (from !== to && from !== NONE && to !== NONE) links.add(column * 4294967296 + from * 65536 + to);
      if (app.problems.severity[i]) {
        const place = `${from} ${to}`;
        if (lastPlace.get(place) !== column) problems.push(i);
        lastPlace.set(place, column);
      }
    }
    context.fillStyle = colors.faint;
    for (const link of links) {
      const column = Math.floor(link / 4294967296);
      const rows = link % 4294967296;
      const [a, b] = [this.y(Math.floor(rows / 65536)), this.y(rows % 65536)];
      context.fillRect(column * 2, Math.min(a, b), 1, Math.abs(b - a));
    }
    context.fillStyle = app.chain.length ? colors.life : colors.arrow;
    const scale = (ROW - 8) / Math.log2(1 + most);
    for (let place = 0; place < counts.length; place++) {
      if (!counts[place]) continue;
      const height = Math.max(3, Math.log2(1 + counts[place]) * scale);
      const row = first + Math.floor(place / columns);
      context.fillRect((place % columns) * 2, this.y(row) - height / 2, 2, height);
    }
    for (const severity of [STALL, ERROR]) {
      const some = problems.filter((i) => app.problems.severity[i] === severity);
      this.strokeArrows(some, severity === ERROR ? colors.error : colors["stall-mark"], 1.5);
    }
  }

  /** The chain of causes of what is selected, and the way between its messages along the actors' tracks. */
  drawChain() {
    const { context, colors, app } = this;
    if (!app.chain.length) return;
    context.strokeStyle = colors.chain;
    context.lineWidth = 3;
    context.beginPath();
    for (let k = 1; k < app.chain.length; k++) {
      const [x1, y1] = this.place(app.chain[k - 1]);
      const [, , x2, y2] = this.place(app.chain[k]);
      if (Math.min(x1, x2) > this.width || Math.max(x1, x2) < 0) continue;
      context.moveTo(x2, y2);
      context.lineTo(x1, y1);
    }
    context.stroke();
    const near = app.chain.filter((i) => i !== app.selected && this.isNear(i));
    this.strokeArrows(near, colors.chain, 2.5);
    if (app.selected === NONE) return;
    const [x1, y1, x2, y2] = this.place(app.selected);
    const problem = app.problems.severity[app.selected];
    this.strokeArrows([app.selected], problem ? this.color(app.selected) : colors.accent, 3.5);
    context.strokeStyle = colors.accent;
    context.lineWidth = 2;
    for (const [x, y] of [[x1, y1], [x2, y2]]) {
      context.beginPath();
      context.arc(x, y, 8, 0, 7);
      context.stroke();
    }
  }

  isNear(i) {
    const { trace, view } = this.app;
    return trace.until(i) >= view.from && trace.told[i] <= view.to;
  }

  /** Types beside the heads of arrows, wherever there is room; what matters most comes first. */
  drawLabels({ events, count }) {
    const { context, colors, app } = this;
    const taken = new Map();
    const inChain = new Set(app.chain);
    const rank = (i) => (i === app.selected ? 0 : inChain.has(i) ? 1 : app.problems.severity[i] ? 2 : 3);
    const wanted = count <= LABELLED ? events.filter((i) => app.matched[i] || inChain.has(i))
      : [...inChain, ...this.someProblems(events)].filter((i) => this.isNear(i));
    if (wanted.length > 4 * LABELLED) return;
    wanted.sort((a, b) => rank(a) - rank(b) || a - b);
    this.heads = new Map();
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const i of wanted) {
      const { tracks, trace } = app;
      const row = tracks.rowOf[tracks.to[i]] === NONE ? tracks.rowOf[tracks.from[i]] : tracks.rowOf[tracks.to[i]];
      const [, , x, y] = this.place(i);
      if (x < -4 || x > this.width || row < this.rows[0] || row >= this.rows[1]) continue;
      const label = trace.typeOf(i).slice(0, 40);
      const width = context.measureText(label).width;
      const spots = taken.get(row) ?? [];
      // Beside the head; where that is beyond the edge, before it.
      const left = x + 11 + width > this.width ? x - 11 - width : x + 11;
      if (spots.some(([a, b]) => left < b + 8 && left + width > a - 8)) continue;
      // A label that would hide what it stands among says less than that does.
      const heads = rank(i) === 3 ? this.headsOf(row, wanted) : [];
      if (heads.filter((head) => head > left && head < left + width).length > 2) continue;
      spots.push([Math.min(left, x - 6), Math.max(left + width, x + 6)]);
      taken.set(row, spots);
      context.strokeStyle = colors.bg;
      context.lineWidth = 4;
      context.strokeText(label, left, y);
      const severity = app.problems.severity[i];
      context.fillStyle = [colors.text, colors.chain, severity === ERROR ? colors.error : colors.stall,
        colors.muted][rank(i)];
      context.fillText(label, left, y);
    }
  }

  /** Where on a row the labelled arrows end. */
  headsOf(row, events) {
    if (!this.heads.size) {
      for (const i of events) {
        const to = this.app.tracks.rowOf[this.app.tracks.to[i]];
        if (!this.heads.has(to)) this.heads.set(to, []);
        this.heads.get(to).push(this.place(i)[2]);
      }
    }
    return this.heads.get(row) ?? [];
  }

  someProblems(events) {
    const found = [];
    for (const i of events) {
      if (this.app.problems.severity[i] && this.app.matched[i]) found.push(i);
      if (found.length > LABELLED) break;
    }
    return found;
  }

  drawPointer() {
    const { context, colors, app } = this;
    context.fillStyle = colors.muted;
    context.fillRect(Math.round(app.pointer), HEAD, 1, this.height);
  }

  /** The event nearest to a point of the canvas, or NONE. */
  at(x, y, far = 8) {
    if (y < HEAD) return NONE;
    let best = NONE;
    let least = far;
    for (const i of this.gather().events) {
      if (!this.app.matched[i]) continue;
      const [x1, y1, x2, y2] = this.place(i);
      const length = (x2 - x1) ** 2 + (y2 - y1) ** 2;
      const part = length ? Math.max(0, Math.min(1, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length)) : 0;
      const distance = Math.hypot(x - x1 - part * (x2 - x1), y - y1 - part * (y2 - y1))
        - (this.app.problems.severity[i] ? 1 : 0);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }
}
