// Lists of any length: only the rows in sight have elements.

const LINE = 26;

/** A table whose rows are made as they come into sight; `columns` are `{name, label, fill(cell, item), key?}`. */
class Table {
  constructor(panel, { label, columns, open, empty, sorted }) {
    Object.assign(this, { panel, columns, open, empty });
    this.items = [];
    this.active = 0;
    this.lines = [];
    this.sorting = null;
    this.grid = make("div", "grid");
    this.grid.tabIndex = 0;
    this.grid.setAttribute("role", "grid");
    this.grid.setAttribute("aria-label", label);
    this.head = make("div", "line head");
    this.head.setAttribute("role", "row");
    for (const column of columns) this.head.append(this.heading(column, sorted));
    this.body = make("div", "body");
    this.body.setAttribute("role", "rowgroup");
    this.body.tabIndex = -1;
    this.spacer = make("div", "spacer");
    this.nothing = make("p", "nothing");
    this.body.append(this.spacer, this.nothing);
    this.grid.append(this.head, this.body);
    panel.append(this.grid);
    this.body.addEventListener("scroll", () => this.draw());
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.click(event));
    for (const change of ["focus", "blur"]) this.grid.addEventListener(change, () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.body);
  }

  heading(column, sorted) {
    const cell = make("span", column.name);
    cell.setAttribute("role", "columnheader");
    if (!sorted) {
      cell.textContent = column.label;
      return cell;
    }
    const button = make("button", "", column.label);
    button.type = "button";
    button.addEventListener("click", () => {
      const down = this.sorting?.column === column && !this.sorting.down;
      this.sorting = { column, down };
      for (const other of this.head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      this.show(this.items);
    });
    cell.append(button);
    return cell;
  }

  /** Shows other items; typed arrays will do. */
  show(items) {
    if (this.sorting) {
      const { column, down } = this.sorting;
      items = [...items].sort((a, b) => {
        const [x, y] = [column.key(a), column.key(b)];
        const order = typeof x === "string" ? natural.compare(x, y) : x - y;
        return down ? -order : order;
      });
    }
    this.items = items;
    this.active = Math.max(0, Math.min(this.active, items.length - 1));
    this.draw();
  }

  draw() {
    const { body, grid, items } = this;
    if (this.panel.hidden) return;
    this.spacer.style.height = `${items.length * LINE}px`;
    this.nothing.hidden = items.length > 0;
    if (!items.length) this.nothing.textContent = this.empty();
    grid.setAttribute("aria-rowcount", items.length + 1);
    const first = Math.max(0, Math.floor(body.scrollTop / LINE));
    const shown = Math.max(0, Math.min(items.length - first, Math.ceil(body.clientHeight / LINE) + 1));
    while (this.lines.length < shown) this.addLine();
    this.lines.forEach((line, k) => {
      line.hidden = k >= shown;
      if (!line.hidden) this.fill(line, first + k);
    });
    const active = this.lines[this.active - first];
    if (active && !active.hidden) grid.setAttribute("aria-activedescendant", active.id);
    else grid.removeAttribute("aria-activedescendant");
  }

  addLine() {
    const line = make("div", "line");
    line.id = `${this.panel.id}-${this.lines.length}`;
    line.setAttribute("role", "row");
    for (const column of this.columns) {
      const cell = make("span", column.tail ? `${column.name} tail` : column.name);
      cell.setAttribute("role", "gridcell");
      line.append(cell);
    }
    this.body.append(line);
    this.lines.push(line);
  }

  fill(line, index) {
    const item = this.items[index];
    line.style.transform = `translateY(${index * LINE}px)`;
    line.dataset.index = index;
    line.setAttribute("aria-rowindex", index + 2);
    line.classList.toggle("active", index === this.active && document.activeElement === this.grid);
    const chosen = this.isChosen?.(item) ?? false;
    line.classList.toggle("chosen", chosen);
    line.setAttribute("aria-selected", chosen);
    line.dataset.severity = this.severityOf?.(item) ?? "";
    this.columns.forEach((column, k) => {
      const cell = line.children[k];
      const text = column.text(item);
      // Where there is no room for all, a name's end says more than its beginning; the marks keep its direction.
      cell.textContent = column.tail ? `\u200e${text}\u200e` : text;
      if (column.whole || column.tail) cell.title = text;
      if (column.mark) cell.dataset.mark = column.mark(item);
    });
  }

  /** Marks the row of an item, and scrolls to it. */
  mark(index) {
    if (index < 0 || index >= this.items.length) return;
    this.active = index;
    const { body } = this;
    const room = body.clientHeight - LINE;
    if (index * LINE < body.scrollTop) body.scrollTop = index * LINE;
    else if (index * LINE > body.scrollTop + room) body.scrollTop = index * LINE - room;
    this.draw();
  }

  click(event) {
    const line = event.target.closest(".line");
    if (!line) return;
    this.grid.focus({ preventScroll: true });
    this.active = Number(line.dataset.index);
    this.open(this.items[this.active]);
    this.draw();
  }

  key(event) {
    if (event.target.tagName === "BUTTON") return;
    const page = Math.max(1, Math.floor(this.body.clientHeight / LINE) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) {
      this.mark(Math.max(0, Math.min(this.items.length - 1, this.active + moves[event.key])));
    } else if (event.key === "Enter" && this.items.length) {
      this.open(this.items[this.active]);
      this.draw();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function problemsTable(app) {
  const table = new Table(document.getElementById("panel-problems"), {
    label: "Problems",
    columns: [
      { name: "time", label: "Time, s", text: (problem) => moment(problem.time) },
      { name: "kind", label: "Problem", text: (problem) => problem.kind },
      { name: "who", label: "Who", tail: true, text: (problem) => app.trace.names[app.trace.receiver[problem.event]] },
      { name: "what", label: "What", whole: true, text: (problem) => problem.text },
    ],
    open: (problem) => app.jump(problem),
    empty: () => (app.query ? "No problem among the messages that match." : "Nothing went wrong, nothing waits."),
  });
  table.severityOf = (problem) => SEVERITIES[problem.severity];
  table.isChosen = (problem) => problem.event === app.selected;
  return table;
}

function messagesTable(app) {
  const { trace } = app;
  const table = new Table(document.getElementById("panel-messages"), {
    label: "Messages",
    columns: [
      { name: "time", label: "Time, s", text: (i) => moment(trace.told[i]) },
      { name: "from", label: "From", tail: true, text: (i) => trace.names[trace.sender[i]] },
      { name: "to", label: "To", tail: true, text: (i) => trace.names[trace.receiver[i]] },
      { name: "type", label: "Message", whole: true, text: (i) => trace.typeOf(i) },
      { name: "what", label: "What it says", whole: true, text: (i) => summaryOf(trace, i) },
      { name: "wait", label: "Taken after", text: (i) => waitOf(trace, i) },
    ],
    open: (i) => app.select(i),
    empty: () => (trace.count ? "No message matches." : "This trace has no messages."),
  });
  table.severityOf = (i) => SEVERITIES[app.problems.severity[i]];
  table.isChosen = (i) => i === app.selected;
  return table;
}

function streamsTable(app) {
  const name = (stream) => app.trace.name(stream.connection);
  const table = new Table(document.getElementById("panel-streams"), {
    label: "Streams",
    sorted: true,
    columns: [
      { name: "process", label: "Process", key: (s) => app.trace.names[s.process], whole: true,
        text: (s) => app.trace.names[s.process] },
      { name: "connection", label: "Connection", key: name, tail: true, text: name },
      { name: "id", label: "Stream", key: (s) => s.id, text: (s) => s.id },
      { name: "state", label: "State", key: (s) => STATES.indexOf(s.state), text: (s) => s.state,
        mark: (s) => s.state },
      { name: "bytes", label: "Bytes sent", key: (s) => s.sent, text: (s) => thousands(s.sent) },
      { name: "bytes", label: "Bytes received", key: (s) => s.arrived, text: (s) => thousands(s.arrived) },
      { name: "bytes", label: "Messages", key: (s) => s.messages, text: (s) => thousands(s.messages) },
      { name: "bytes", label: "First, s", key: (s) => s.first, text: (s) => moment(s.first) },
      { name: "bytes", label: "Last, s", key: (s) => s.last, text: (s) => moment(s.last) },
    ],
    open: (stream) => app.filterBy(streamQuery(app, stream)),
    empty: () => (app.query ? "No stream among the messages that match." : "This trace has no streams."),
  });
  const stalled = new Set(app.problems.all.filter((problem) => problem.stream).map((problem) => problem.stream));
  table.severityOf = (s) => (s.state === "failed" || s.state === "reset" ? "error" : stalled.has(s) ? "stall" : "");
  return table;
}

/** What a message says of itself, or its frames. */
function summaryOf(trace, i) {
  const frames = trace.frames.has(i) ? trace.framesOf(i).slice(0, 6).map(frameText).join(", ") : "";
  return trace.textOf(i) || frames;
}

function waitOf(trace, i) {
  if (trace.taken[i] >= 0) return duration(trace.taken[i] - trace.told[i]);
  if (trace.isToEdge(i)) return "";
  return trace.dead[i] ? "dead letter" : "not taken";
}

/** What the filter box says of one stream at one end of its connection. */
function streamQuery(app, stream) {
  const label = app.streams.label(stream);
  const where = app.trace.processes.length > 1 ? ` process:${quoted(app.trace.names[stream.process])}` : "";
  return `stream:${quoted(stream.connection === NONE ? `${stream.id}` : label)}${where}`;
}

function quoted(word) {
  return /[\s"]/.test(word) ? `"${word.replaceAll('"', "")}"` : word;
}
