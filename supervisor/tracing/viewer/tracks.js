// The actors as a tree: each is a track of the timeline, or part of the track of the one above it that is folded.

const DEPTH = 12;
const MANY = 48;
const EDGE_RANK = { caller: -1, socket: 1, timer: 2 };
const natural = new Intl.Collator("en", { numeric: true });

/** One actor, or a part of actors' names, or a process. */
class Track {
  constructor(name, path, parent, process) {
    Object.assign(this, { name, path, parent, process });
    this.depth = parent ? parent.depth + 1 : 0;
    this.children = [];
    this.folded = false;
    this.first = Infinity;
    this.last = 0;
    this.severity = 0;
    this.stream = null;
    this.messages = 0;
    this.row = NONE;
    this.number = 0;
  }
}

/** All tracks, and the rows that are shown of them. */
class Tracks {
  constructor(trace, streams, problems) {
    this.trace = trace;
    this.all = [];
    this.roots = [];
    this.byActor = new Map();
    this.byPath = new Map();
    const several = trace.processes.length > 1;
    this.tops = new Map(trace.processes.map((process) =>
      [process, several ? this.make(trace.names[process], `${process}`, null, process) : null]));
    this.from = new Int32Array(trace.count);
    this.to = new Int32Array(trace.count);
    for (let i = 0; i < trace.count; i++) {
      const from = this.of(i, trace.sender[i], streams);
      const to = this.of(i, trace.receiver[i], streams);
      this.from[i] = from.number;
      this.to[i] = to.number;
      this.mark(from, i, problems);
      if (to !== from) this.mark(to, i, problems);
    }
    this.sort(this.roots);
    for (const track of this.all) this.sort(track.children);
    this.foldMany();
    this.rowOf = new Int32Array(this.all.length);
  }

  make(name, path, parent, process) {
    const track = new Track(name, path, parent, process);
    track.number = this.all.length;
    this.all.push(track);
    this.byPath.set(path, track);
    (parent ? parent.children : this.roots).push(track);
    return track;
  }

  /** The track of an actor: below those that its name begins with. */
  of(i, actor, streams) {
    const process = this.trace.process[i];
    const key = this.trace.keyOf(process, actor);
    let track = this.byActor.get(key);
    if (track) return track;
    const words = this.trace.names[actor].split("/");
    if (words.length > DEPTH) words.push(words.splice(DEPTH - 1).join("/"));
    let path = `${process}`;
    track = this.tops.get(process);
    for (const word of words) {
      path += `/${word}`;
      track = this.byPath.get(path) ?? this.make(word, path, track, process);
    }
    const stream = streams.ofActor.get(key);
    track.stream = stream === undefined ? null : streams.all[stream];
    this.byActor.set(key, track);
    return track;
  }

  /** Notes that an event is on a track, and so on those above it. */
  mark(track, i, problems) {
    track.messages += 1;
    const severity = problems.severity[i];
    for (let each = track; each; each = each.parent) {
      each.first = Math.min(each.first, this.trace.told[i]);
      each.last = Math.max(each.last, this.trace.until(i));
      each.severity = Math.max(each.severity, severity);
    }
  }

  sort(tracks) {
    const rank = (track) => EDGE_RANK[track.name] ?? 0;
    tracks.sort((a, b) => rank(a) - rank(b) || natural.compare(a.name, b.name));
  }

  /** Folds those with the most below them until a page is enough for the rest. */
  foldMany() {
    if (this.all.length <= MANY) return;
    const parents = this.all.filter((track) => track.children.length > 0);
    const streams = (track) => track.children.filter((child) => child.children.length === 0).length;
    parents.sort((a, b) => streams(b) - streams(a) || b.depth - a.depth);
    let shown = this.all.length;
    for (const track of parents) {
      if (shown <= MANY) return;
      if (streams(track) < 4 && track.depth === 0) continue;
      track.folded = true;
      shown = this.countShown();
    }
  }

  countShown() {
    let shown = 0;
    const stack = [...this.roots];
    while (stack.length) {
      const track = stack.pop();
      shown += 1;
      if (!track.folded) stack.push(...track.children);
    }
    return shown;
  }

  foldAll(folded) {
    for (const track of this.all) track.folded = folded && track.children.length > 0 && track.depth > 0;
    if (folded && this.all.every((track) => !track.folded)) {
      for (const track of this.all) track.folded = track.children.length > 0;
    }
  }

  /**
   * Makes the rows: `matches` are the events that a filter left, or null; tracks without one of these are not shown.
   * Those of `kept` events are shown in any case, also below a folded one.
   */
  layOut(matches, kept) {
    const wanted = new Uint8Array(this.all.length);
    const peeked = new Uint8Array(this.all.length);
    const raise = (flags, number) => {
      for (let track = this.all[number]; track && !flags[track.number]; track = track.parent) flags[track.number] = 1;
    };
    let unfolded = false;
    if (matches) {
      let many = 0;
      for (const i of matches) {
        for (const number of [this.from[i], this.to[i]]) {
          if (!wanted[number]) many += 1;
          raise(wanted, number);
        }
      }
      unfolded = many <= MANY;
    }
    for (const i of kept) {
      raise(peeked, this.from[i]);
      raise(peeked, this.to[i]);
    }
    this.rows = [];
    this.rowOf.fill(NONE);
    const stack = this.roots.toReversed().map((track) => [track, NONE]);
    while (stack.length) {
      const [track, above] = stack.pop();
      let row = above;
      if ((above === NONE || peeked[track.number]) && (!matches || wanted[track.number] || peeked[track.number])) {
        row = this.rows.length;
        this.rows.push(track);
      }
      this.rowOf[track.number] = row;
      const hides = track.folded && !unfolded;
      // Below a folded one, tracks are drawn in its row.
      for (const child of track.children.toReversed()) stack.push([child, hides || above !== NONE ? row : NONE]);
    }
    this.unfolded = unfolded;
  }
}
