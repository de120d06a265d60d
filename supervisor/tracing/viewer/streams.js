// What became of each stream, as one end of its connection saw it.

const STATES = ["failed", "reset", "open", "ended"];

/** One stream at one end of its connection. */
class Stream {
  constructor(process, connection, id) {
    Object.assign(this, { process, connection, id });
    this.sent = 0;
    this.arrived = 0;
    this.messages = 0;
    this.first = Infinity;
    this.last = 0;
    this.lastEvent = NONE;
    this.progress = 0;
    this.queued = 0;
    this.returned = 0;
    this.wereSent = false;
    this.haveArrived = false;
    this.exited = false;
    this.reset = false;
    this.failed = false;
    this.silence = 0;
    this.framed = false;
  }

  get state() {
    if (this.failed) return "failed";
    if (this.reset) return "reset";
    return this.exited || (this.wereSent && this.haveArrived) ? "ended" : "open";
  }

  /** Bytes of its body that were handed over and have not gone out. */
  get unsent() {
    return this.wereSent || !this.framed ? 0 : Math.max(0, this.queued - this.sent);
  }

  /** Bytes of the peer's body that came and nobody read. */
  get unread() {
    return this.state === "open" ? Math.max(0, this.arrived - this.returned) : 0;
  }
}

/** Every stream of a trace, in the order in which they appear, and which of them each event is about. */
class Streams {
  constructor(trace) {
    this.trace = trace;
    this.all = [];
    this.byConnection = new Map();
    this.ofActor = new Map();
    this.ofEvent = new Int32Array(trace.count).fill(NONE);
    for (let i = 0; i < trace.count; i++) this.take(i);
    for (const stream of this.all) stream.silence = trace.ends.get(stream.process) - stream.last;
  }

  find(i, id) {
    const { trace } = this;
    const key = trace.keyOf(trace.process[i], trace.connection[i]);
    let numbers = this.byConnection.get(key);
    if (!numbers) this.byConnection.set(key, numbers = new Map());
    let number = numbers.get(id);
    if (number === undefined) {
      numbers.set(id, number = this.all.length);
      this.all.push(new Stream(trace.process[i], trace.connection[i], id));
    }
    return number;
  }

  take(i) {
    const { trace } = this;
    const type = trace.typeOf(i);
    if (trace.frames.has(i)) this.takeFrames(i, type === "FramesSent");
    else if (type === "Exited") this.bury(i);
    if (trace.stream[i] <= 0) return;
    const number = this.find(i, trace.stream[i]);
    const stream = this.all[number];
    this.ofEvent[i] = number;
    this.touch(stream, i);
    if (type !== "Exited") {
      this.own(i, trace.sender[i], number);
      this.own(i, trace.receiver[i], number);
    }
    this.fold(stream, i, type);
  }

  /** A stream's own actor is whoever speaks of it and is neither the connection nor an edge. */
  own(i, actor, number) {
    const { trace } = this;
    if (actor === trace.connection[i] || EDGES.has(trace.names[actor])) return;
    this.ofActor.set(trace.keyOf(trace.process[i], actor), number);
  }

  touch(stream, i) {
    stream.messages += 1;
    stream.first = Math.min(stream.first, this.trace.told[i]);
    stream.last = Math.max(stream.last, this.trace.until(i));
    stream.lastEvent = i;
  }

  takeFrames(i, sent) {
    const touched = new Set();
    for (const frame of this.trace.framesOf(i)) {
      if (frame.stream === 0) continue;
      const stream = this.all[this.find(i, frame.stream)];
      touched.add(stream);
      stream.framed = true;
      if (frame.kind === DATA_FRAME) {
        stream[sent ? "sent" : "arrived"] += frame.length;
        stream.progress = this.trace.told[i];
      }
      if (frame.kind === RESET_FRAME) stream.reset = true;
      if (frame.kind <= HEADERS_FRAME && frame.flags & 1) stream[sent ? "wereSent" : "haveArrived"] = true;
    }
    for (const stream of touched) this.touch(stream, i);
  }

  fold(stream, i, type) {
    const text = this.trace.textOf(i);
    const bytes = () => Number(/(\d+) bytes/.exec(text)?.[1] ?? 0);
    switch (type) {
      case "SendData":
        stream.queued += bytes();
        stream.progress = this.trace.told[i];
        break;
      case "RoomMade":
        stream.progress = this.trace.told[i];
        break;
      case "ReturnCredit":
        stream.returned += bytes();
        stream.progress = this.trace.told[i];
        break;
      case "DataArrived":
      case "HeadersArrived":
        if (text.endsWith(", ended")) stream.haveArrived = true;
        break;
      case "TrailersArrived":
        stream.haveArrived = true;
        break;
      case "Respond":
        stream.queued += bytes();
        break;
      case "PeerReset":
      case "ResetStream":
        stream.reset = true;
        break;
      case "StreamFailed":
        stream.failed = true;
        break;
      default:
    }
  }

  /** An actor's end is that of its stream. */
  bury(i) {
    const { trace } = this;
    const [name, how] = trace.textOf(i).split(" ", 2);
    const stream = this.all[this.ofActor.get(trace.keyOf(trace.process[i], trace.numberOf(name)))];
    if (!stream) return;
    stream.exited = true;
    if (how?.startsWith("crashed")) stream.failed = true;
  }

  /** The streams that some events are about. */
  about(events) {
    const found = new Uint8Array(this.all.length);
    for (const i of events) {
      if (this.ofEvent[i] !== NONE) found[this.ofEvent[i]] = 1;
      const flat = this.trace.frames.get(i);
      if (flat) for (let k = 2; k < flat.length; k += 4) if (flat[k] > 0) found[this.find(i, flat[k])] = 1;
    }
    return this.all.filter((_, number) => found[number]);
  }

  label(stream) {
    return `${this.trace.name(stream.connection) || "?"}#${stream.id}`;
  }
}
