// The application: what is selected, filtered and in sight.

const NEAR = 8;

class App {
  constructor() {
    const began = performance.now();
    this.trace = new Trace(embedded("trace"), embedded("names"), embedded("events"));
    const { trace } = this;
    const parsed = performance.now();
    this.streams = new Streams(trace);
    this.problems = new Problems(trace, this.streams);
    this.tracks = new Tracks(trace, this.streams, this.problems);
    this.filter = new Filter(trace);
    this.times = { parsed: parsed - began, indexed: performance.now() - parsed, drawn: 0, filtered: 0 };
    this.whole = Math.max(10, trace.end);
    this.query = "";
    this.matches = this.filter.apply("");
    this.matched = new Uint8Array(trace.count).fill(1);
    this.selected = NONE;
    this.chain = [];
    this.only = false;
    this.pointer = null;
    this.scroll = 0;
    this.view = { from: -this.whole * 0.02, to: this.whole * 1.02 };
    this.tracksOfStreams = new Map();
    for (const track of this.tracks.all) if (track.stream) this.tracksOfStreams.set(track.stream, track);
    this.tracks.layOut(null, []);
    this.timeline = new Timeline(this);
    this.tree = new Tree(this);
    this.details = new Details(this);
    this.tables = { problems: problemsTable(this), messages: messagesTable(this), streams: streamsTable(this) };
    this.input = document.getElementById("filter");
    this.head();
    this.listen();
    this.setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    this.openTab(this.problems.all.length ? "problems" : "messages");
    this.list();
    this.details.show();
    this.timeline.resize();
    this.draw();
    this.times.drawn = performance.now() - began;
  }

  /** The top of the page: what the trace is, and what a reader must know of it. */
  head() {
    const { about, count, processes } = this.trace;
    const names = processes.map((process) => this.trace.names[process]);
    const start = about.start === null ? "" : new Date(about.start * 1e3);
    const when = start && !Number.isNaN(start.getTime()) ? ` from ${start.toISOString().slice(0, 19).replace("T", " ")} UTC`
      : "";
    document.getElementById("summary").textContent = `${names.slice(0, 3).join(", ")}${names.length > 3 ? ", …" : ""}: ${
      counted(count, "message")} in ${duration(this.trace.end)}${when}`;
    if (names.length) document.title = `${names.slice(0, 3).join(", ")} - muxlink trace`;
    const notices = [...about.warnings];
    for (const head of about.heads) {
      if (head.dropped) notices.push(`${head.process}: ${counted(head.dropped, "older message")} had made way for newer`
        + " ones, so the beginning is missing.");
      if (head.payloads) notices.push(`${head.process}: holds bodies and secret headers. Take care whom you show it.`);
    }
    for (const end of about.ends) {
      if (end.lost) notices.push(`${end.process}: ${counted(end.lost, "message")} could not be kept.`);
      if (["events", "seconds", "size"].includes(end.reason)) {
        notices.push(`${end.process}: the capture stopped itself at its bound (${end.reason}).`);
      }
    }
    const box = document.getElementById("notices");
    box.hidden = notices.length === 0;
    for (const notice of notices.slice(0, LISTED)) box.append(make("p", "notice", notice));
    if (notices.length > LISTED) box.append(make("p", "notice", `and ${thousands(notices.length - LISTED)} more`));
    const empty = document.getElementById("empty");
    empty.hidden = count > 0;
    empty.textContent = "This trace has no messages.";
  }

  listen() {
    const on = (id, act) => document.getElementById(id).addEventListener("click", act);
    on("fit", () => this.timeline.fit());
    on("theme", () => this.setTheme(this.theme === "dark" ? "light" : "dark"));
    on("help-open", () => document.getElementById("help").showModal());
    on("expand", () => this.fold(false));
    on("collapse", () => this.fold(true));
    for (const name of Object.keys(this.tables)) {
      on(`tab-${name}`, () => this.openTab(name));
      document.getElementById(`tab-${name}`).addEventListener("keydown", (event) => this.tabKey(event, name));
    }
    this.input.addEventListener("input", () => this.setQuery(this.input.value));
    this.input.addEventListener("keydown", (event) => this.inputKey(event));
    document.addEventListener("keydown", (event) => pressed(this, event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) =>
      this.setTheme(event.matches ? "dark" : "light"));
  }

  setTheme(theme) {
    this.theme = theme;
    document.documentElement.dataset.theme = theme;
    document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
    this.timeline.scene.colors = readColors();
    this.refresh();
  }

  fold(folded) {
    this.tracks.foldAll(folded);
    this.layOut();
  }

  /** Draws at the next frame, once however often it is asked. */
  refresh() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    if (!this.tree) return;
    this.tree.draw();
    this.timeline.scene.draw();
  }

  scrollTo(top) {
    this.scroll = top;
    this.refresh();
  }

  layOut() {
    const only = this.only && this.chain.length > 0;
    this.tracks.layOut(only ? this.chain : this.query ? this.matches : null, this.chain);
    this.refresh();
  }

  trackOf(stream) {
    return this.tracksOfStreams.get(stream);
  }

  setQuery(query) {
    const began = performance.now();
    this.query = query.trim();
    this.matches = this.filter.apply(this.query);
    this.matched.fill(0);
    for (const i of this.matches) this.matched[i] = 1;
    this.list();
    this.layOut();
    this.tree.draw();
    this.timeline.scene.draw();
    this.times.filtered = performance.now() - began;
  }

  filterBy(query) {
    this.input.value = query;
    this.setQuery(query);
    this.timeline.showAll(this.matches);
    this.openTab("messages");
    this.say(`${counted(this.matches.length, "message")} match ${query}`);
  }

  /** Fills the lists with what the filter left. */
  list() {
    const { trace, problems, streams, tables } = this;
    const found = this.query ? problems.all.filter((problem) => this.matched[problem.event]) : problems.all;
    const shown = this.query ? streams.about(this.matches) : streams.all;
    tables.problems.show(found);
    tables.messages.show(this.matches);
    tables.streams.show(shown);
    const label = (name, some, all) => {
      const part = some === all ? thousands(all) : `${thousands(some)} of ${thousands(all)}`;
      document.getElementById(`tab-${name.toLowerCase()}`).textContent = `${name} ${part}`;
    };
    label("Problems", found.length, problems.all.length);
    label("Messages", this.matches.length, trace.count);
    label("Streams", shown.length, streams.all.length);
    document.getElementById("tab-problems").dataset.severity = problems.errors ? "error" : problems.stalls ? "stall" : "";
    document.getElementById("count").textContent = this.query
      ? `${thousands(this.matches.length)} of ${thousands(trace.count)}` : "";
  }

  openTab(name, focus = false) {
    this.tab = name;
    for (const each of Object.keys(this.tables)) {
      const tab = document.getElementById(`tab-${each}`);
      tab.setAttribute("aria-selected", each === name);
      tab.tabIndex = each === name ? 0 : -1;
      document.getElementById(`panel-${each}`).hidden = each !== name;
    }
    this.tables[name].draw();
    this.markRow();
    if (focus) this.tables[name].grid.focus();
  }

  tabKey(event, name) {
    const names = Object.keys(this.tables);
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = names[(names.indexOf(name) + by + names.length) % names.length];
    this.openTab(next);
    document.getElementById(`tab-${next}`).focus();
    event.preventDefault();
    event.stopPropagation();
  }

  /** Hides the actors that have no part in the chain, or shows them again. */
  setOnly(only) {
    this.only = only && this.selected !== NONE;
    this.layOut();
    this.details.show("only");
    if (this.selected !== NONE) this.timeline.show(this.selected);
  }

  /** Opens a message; `within` keeps the chain that is shown, as one walks along it. */
  select(i, { within = false, focus = "" } = {}) {
    this.selected = i;
    if (i === NONE) this.only = false;
    if (!within || !this.chain.includes(i)) {
      this.chain = i === NONE ? [] : this.trace.chain(i);
      this.details.everything = false;
    }
    this.layOut();
    if (i !== NONE) this.timeline.show(i);
    this.details.show(focus === true ? "title" : focus);
    this.markRow();
    for (const table of Object.values(this.tables)) table.draw();
    if (i !== NONE) {
      this.say(`${this.trace.typeOf(i)} from ${this.trace.names[this.trace.sender[i]]} to ${
        this.trace.names[this.trace.receiver[i]]}, ${counted(this.chain.length - 1, "cause")}`);
    }
  }

  /** Goes to a problem: its message, near enough to see what led to it. */
  jump(problem) {
    this.select(problem.event);
    if (problem.stream) {
      const end = this.trace.ends.get(problem.stream.process);
      const silence = end - problem.time;
      this.timeline.look(problem.time - silence * 0.4, end + silence * 0.1);
    } else this.timeline.showAll(this.chain.slice(0, NEAR));
  }

  markRow() {
    if (this.selected === NONE) return;
    const { messages, problems } = this.tables;
    if (this.tab === "messages") messages.mark(this.position(this.selected));
    if (this.tab === "problems") {
      problems.mark(problems.items.findIndex((problem) => problem.event === this.selected));
    }
  }

  /** Where an event stands among the matches; NONE where the filter left it out. */
  position(i) {
    const place = this.placeOf(i);
    return this.matches[place] === i ? place : NONE;
  }

  placeOf(i) {
    let low = 0;
    let high = this.matches.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.matches[middle] < i) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Opens the next or the previous match; the first one in sight where nothing is open. */
  walk(by) {
    const { matches, trace, view } = this;
    if (!matches.length) return;
    let place;
    if (this.selected === NONE) place = Math.max(0, matches.findIndex((i) => trace.told[i] >= view.from));
    else {
      place = this.placeOf(this.selected);
      if (by < 0 || matches[place] === this.selected) place += by;
    }
    if (place >= 0 && place < matches.length) this.select(matches[place]);
  }

  walkProblems(by) {
    const { items } = this.tables.problems;
    if (!items.length) return;
    const at = items.findIndex((problem) => problem.event === this.selected);
    const place = at < 0 ? (by > 0 ? 0 : items.length - 1) : at + by;
    if (place >= 0 && place < items.length) this.jump(items[place]);
  }

  say(text) {
    document.getElementById("said").textContent = text;
  }

  inputKey(event) {
    if (event.key === "Escape") {
      this.input.value = "";
      this.setQuery("");
      this.input.blur();
    } else if (event.key === "Enter") {
      this.openTab("messages", true);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  escape() {
    if (this.query) {
      this.input.value = "";
      this.setQuery("");
    } else if (this.selected !== NONE) this.select(NONE);
  }

  toCause() {
    const at = this.chain.indexOf(this.selected);
    if (at >= 0 && at + 1 < this.chain.length) this.select(this.chain[at + 1], { within: true, focus: "chain" });
  }

  zoomOn(factor) {
    const { view, trace, selected } = this;
    const part = selected === NONE ? 0.5 : (trace.told[selected] - view.from) / (view.to - view.from);
    this.timeline.zoom(factor, part >= 0 && part <= 1 ? part : 0.5);
  }
}
