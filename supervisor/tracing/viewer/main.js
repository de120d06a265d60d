// Where it begins: the keys of the whole page, and what tests may look at.

/** Does what a key stands for, wherever the focus is. */
function pressed(app, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === app.input) return;
  if (document.getElementById("help").open) return;
  const { timeline } = app;
  const acts = {
    "/": () => app.input.select(),
    Escape: () => app.escape(),
    j: () => app.walk(1),
    k: () => app.walk(-1),
    n: () => app.walkProblems(1),
    p: () => app.walkProblems(-1),
    c: () => app.selected !== NONE && app.toCause(),
    o: () => app.setOnly(!app.only),
    z: () => timeline.showAll(app.chain),
    0: () => timeline.fit(),
    "+": () => app.zoomOn(0.5),
    "=": () => app.zoomOn(0.5),
    "-": () => app.zoomOn(2),
    ArrowLeft: () => timeline.pan(-0.15),
    ArrowRight: () => timeline.pan(0.15),
    ArrowUp: () => (app.tree.element.scrollTop -= ROW),
    ArrowDown: () => (app.tree.element.scrollTop += ROW),
    t: () => app.setTheme(app.theme === "dark" ? "light" : "dark"),
    "?": () => document.getElementById("help").showModal(),
    1: () => app.openTab("problems", true),
    2: () => app.openTab("messages", true),
    3: () => app.openTab("streams", true),
  };
  // Arrows belong to what has the focus, unless that is the timeline or nothing.
  const free = event.target === document.body || event.target === timeline.stage;
  if (!Object.hasOwn(acts, event.key) || (event.key.startsWith("Arrow") && !free)) return;
  event.preventDefault();
  acts[event.key]();
}

const app = new App();

/** What tests may look at; nothing of it can be changed. */
Object.defineProperty(window, "muxlink", {
  value: Object.freeze({
    get counts() {
      const { trace, problems, streams, tracks } = app;
      return Object.freeze({
        events: trace.count, streams: streams.all.length, problems: problems.all.length, errors: problems.errors,
        stalls: problems.stalls, processes: trace.processes.length, tracks: tracks.all.length, rows: tracks.rows.length,
      });
    },
    get selected() {
      return app.selected === NONE ? null : app.trace.id[app.selected];
    },
    get chain() {
      return Object.freeze(app.chain.map((i) => app.trace.id[i]));
    },
    get matches() {
      return app.matches.length;
    },
    get view() {
      return Object.freeze({ ...app.view });
    },
    get theme() {
      return app.theme;
    },
    get times() {
      return Object.freeze({ ...app.times });
    },
    /** The ids of the first messages that match. */
    visible(limit = 100) {
      return Object.freeze([...app.matches.subarray(0, limit)].map((i) => app.trace.id[i]));
    },
    /** Where lines over the wire are drawn that end at a message, told from others by its process. */
    wires(process, id) {
      const { trace, timeline } = app;
      const i = trace.byId.get(trace.numberOf(process))?.get(id);
      if (i === undefined) return null;
      const box = timeline.stage.getBoundingClientRect();
      return timeline.scene.wiresTo(i).map((line) => line.map((part, k) => part + (k % 2 ? box.top : box.left)));
    },
    /** Where a message is drawn, in the page's pixels: from x and y to x and y; null where its track is not shown. */
    place(id) {
      const i = app.trace.id.indexOf(id);
      if (i < 0) return null;
      const box = app.timeline.stage.getBoundingClientRect();
      const [x1, y1, x2, y2] = app.timeline.scene.place(i);
      return Object.freeze([x1 + box.left, y1 + box.top, x2 + box.left, y2 + box.top]);
    },
  }),
});
