// What is known of the message that is open; of the whole trace where none is.

const CHAIN_SHOWN = 120;
const LISTED = 200;

class Details {
  constructor(app) {
    this.app = app;
    this.element = document.getElementById("details");
  }

  /** Shows what is selected; `focus` says which part gets the keyboard: "title", "chain" or none. */
  show(focus = "") {
    const { app, element } = this;
    element.replaceChildren(...(app.selected === NONE ? this.about() : this.message(app.selected)));
    element.scrollTop = 0;
    const part = { chain: "[aria-current=true]", title: "h2", only: "[aria-pressed]" }[focus];
    if (part) element.querySelector(part)?.focus();
  }

  message(i) {
    const { app } = this;
    const { trace } = app;
    const title = make("h2", "", trace.typeOf(i));
    title.tabIndex = -1;
    title.dataset.severity = SEVERITIES[app.problems.severity[i]];
    const close = make("button", "close", "Close");
    close.type = "button";
    close.title = "Close (Esc)";
    close.addEventListener("click", () => app.select(NONE));
    const top = make("div", "top");
    top.append(title, close);
    const parts = [top];
    for (const problem of app.problems.of(i)) {
      const banner = make("p", "banner");
      banner.dataset.severity = SEVERITIES[problem.severity];
      banner.append(make("strong", "", `${problem.kind}: `), problem.text);
      parts.push(banner);
    }
    parts.push(this.fields(i), ...this.chain(), ...this.effects(i), ...this.frames(i), ...this.data(i));
    return parts;
  }

  fields(i) {
    const { app } = this;
    const { trace } = app;
    const list = make("dl");
    const row = (name, value) => {
      if (value === "") return;
      const cell = make("dd");
      cell.append(value);
      list.append(make("dt", "", name), cell);
    };
    const link = (text, query) => this.button(text, `Filter by ${query}`, () => app.filterBy(query));
    row("Says", trace.textOf(i));
    row("From", link(trace.names[trace.sender[i]], `actor:${quoted(trace.names[trace.sender[i]])}`));
    row("To", link(trace.names[trace.receiver[i]], `actor:${quoted(trace.names[trace.receiver[i]])}`));
    row("Told", `${moment(trace.told[i])} s${this.clock(trace.told[i])}`);
    if (trace.taken[i] >= 0 || !trace.isToEdge(i)) row("Taken", trace.taken[i] >= 0 ? `${duration(trace.taken[i] - trace.told[i])} later`
      : trace.dead[i] ? "never: nobody was there" : "never, as far as the trace goes");
    const stream = app.streams.ofEvent[i];
    if (stream !== NONE) {
      const one = app.streams.all[stream];
      row("Stream", link(`${one.id}, ${one.state}`, streamQuery(app, one)));
    }
    if (trace.connection[i] !== NONE) {
      const name = trace.name(trace.connection[i]);
      row("Connection", link(name, `connection:${quoted(name)}`));
    }
    row("Process", trace.names[trace.process[i]]);
    row("Number", `${trace.id[i]}${trace.causeId[i] ? `, because of ${trace.causeId[i]}` : ""}`);
    return list;
  }

  clock(us) {
    const { start } = this.app.trace.about;
    const date = new Date(start === null ? NaN : start * 1e3 + us / 1e3);
    return Number.isNaN(date.getTime()) ? "" : ` (${date.toISOString().replace("T", " ").replace("Z", " UTC")})`;
  }

  button(text, title, act) {
    const button = make("button", "link", text || "(no name)");
    button.type = "button";
    button.title = title;
    button.addEventListener("click", act);
    return button;
  }

  /** One message as a button that opens it. */
  step(i, before, focus) {
    const { app } = this;
    const { trace } = app;
    const item = make("li");
    const button = make("button", "step");
    button.type = "button";
    button.dataset.severity = SEVERITIES[app.problems.severity[i]];
    const later = before === NONE ? `${moment(trace.told[i])} s` : `+${duration(trace.told[i] - trace.told[before])}`;
    const line = make("span", "what");
    line.append(make("strong", "", trace.typeOf(i)), make("span", "delta", later));
    const who = make("span", "who", `${trace.names[trace.sender[i]]} → ${trace.names[trace.receiver[i]]}`);
    button.append(line, who);
    if (trace.textOf(i)) button.append(make("span", "text", trace.textOf(i)));
    if (i === app.selected) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => app.select(i, { within: focus === "chain", focus }));
    item.append(button);
    return item;
  }

  chain() {
    const { app } = this;
    const { trace, chain } = app;
    const first = chain[chain.length - 1];
    const list = make("ol", "chain");
    const cut = chain.length > CHAIN_SHOWN && !this.everything;
    chain.forEach((i, k) => {
      if (cut && k >= CHAIN_SHOWN - 20 && k < chain.length - 20) {
        if (k === CHAIN_SHOWN - 20) list.append(this.rest(chain.length - CHAIN_SHOWN));
        return;
      }
      const cause = k + 1 < chain.length ? chain[k + 1] : NONE;
      if (cause !== NONE && trace.process[cause] !== trace.process[i]) {
        list.append(this.step(i, cause, "chain"), make("li", "wire", `over the wire from ${
          trace.names[trace.process[cause]]}`));
      } else list.append(this.step(i, cause, "chain"));
    });
    if (trace.causeId[first]) {
      list.append(make("li", "wire", `Its cause, number ${trace.causeId[first]}, is not in this trace.`));
    }
    const head = make("h3", "", `Why: ${counted(chain.length, "message")}`);
    const zoom = this.button("Zoom to it", "Show the whole chain (z)", () => app.timeline.showAll(chain));
    const only = this.button("Only its actors", "Hide the other actors (o)", () => app.setOnly(!app.only));
    only.setAttribute("aria-pressed", app.only);
    const top = make("div", "top");
    top.append(head, only, zoom);
    return [top, list];
  }

  rest(count) {
    const item = make("li", "wire");
    item.append(this.button(`${thousands(count)} more between`, "Show every cause", () => {
      this.everything = true;
      this.show("title");
    }));
    return item;
  }

  effects(i) {
    const effects = this.app.trace.effects(i);
    if (!effects.length) return [];
    const list = make("ol", "chain");
    for (const effect of effects.slice(0, LISTED)) list.append(this.step(effect, i, "title"));
    if (effects.length > LISTED) list.append(make("li", "wire", `and ${thousands(effects.length - LISTED)} more`));
    return [make("h3", "", `It led to ${counted(effects.length, "message")}`), list];
  }

  frames(i) {
    const frames = this.app.trace.framesOf(i);
    if (!frames.length) return [];
    const list = make("ul", "frames");
    for (const frame of frames.slice(0, LISTED)) list.append(make("li", "", frameText(frame)));
    if (frames.length > LISTED) list.append(make("li", "", `and ${thousands(frames.length - LISTED)} more`));
    return [make("h3", "", `${counted(frames.length, "frame")}: type, stream, bytes, flags`), list];
  }

  data(i) {
    const data = this.app.trace.data.get(i);
    if (data === undefined) return [];
    let text = data;
    try {
      text = JSON.stringify(JSON.parse(data), null, 2);
    } catch {
      // Not every value that Python writes is JSON; then it is shown as it was written.
    }
    return [make("h3", "", "Payload"), make("pre", "", text)];
  }

  about() {
    const { app } = this;
    const { trace } = app;
    const title = make("h2", "", "This trace");
    title.tabIndex = -1;
    const parts = [title, make("p", "muted",
      "Open a message in the timeline or in a list to see what it says and what caused it. Press ? for the keys.")];
    const list = make("ul", "plain");
    for (const head of trace.about.heads) {
      const end = trace.about.ends.find((each) => each.process === head.process);
      const item = make("li");
      item.append(this.button(head.process, "Filter by this process", () =>
        app.filterBy(`process:${quoted(head.process)}`)));
      item.append(make("span", "muted", [`pid ${head.pid}`, head.version && `muxlink ${head.version}`,
        end && `ended: ${end.reason}`].filter(Boolean).join(", ")));
      list.append(item);
    }
    parts.push(make("h3", "", counted(trace.about.heads.length, "process").replace("processs", "processes")), list);
    const connections = make("ul", "plain");
    for (const one of trace.about.conversations.slice(0, LISTED)) {
      const item = make("li");
      item.append(this.button(one.name, "Filter by this connection", () =>
        app.filterBy(`connection:${quoted(one.name)}`)));
      item.append(make("span", "muted", `${one.side}, ${one.local} ${one.side === "client" ? "→" : "←"} ${one.peer}`));
      connections.append(item);
    }
    const more = trace.about.conversations.length - LISTED;
    if (more > 0) connections.append(make("li", "muted", `and ${thousands(more)} more`));
    parts.push(make("h3", "", counted(trace.about.conversations.length, "connection")), connections, this.legend());
    return parts;
  }

  legend() {
    const list = make("ul", "plain legend");
    for (const [mark, text] of [
      ["arrow", "a message, from when it was told to when it was taken"],
      ["chain", "the causes of the message that is open"],
      ["error", "an error, a crash or a message that nobody took"],
      ["stall", "a wait of more than a second; dashes where a stream is silent"],
    ]) {
      const item = make("li");
      const swatch = make("span", "swatch");
      swatch.dataset.mark = mark;
      item.append(swatch, make("span", "", text));
      list.append(item);
    }
    const box = make("div");
    box.append(make("h3", "", "Colors"), list);
    if (this.app.trace.remote.size) {
      box.append(make("p", "muted", "A broken line leads from where frames were sent to where they arrived."));
    }
    return box;
  }
}
