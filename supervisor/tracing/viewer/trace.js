// The embedded trace as columns: one array per field, indexed by event. Times are microseconds from the first event.

const NONE = -1;
const DATA_FRAME = 0;
const HEADERS_FRAME = 1;
const RESET_FRAME = 3;
const FRAME_NAMES = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY",
  "WINDOW_UPDATE", "CONTINUATION"];
const ACK = { 0x1: "ACK" };
const FRAME_FLAGS = {
  0: { 0x1: "END_STREAM", 0x8: "PADDED" },
  1: { 0x1: "END_STREAM", 0x4: "END_HEADERS", 0x8: "PADDED", 0x20: "PRIORITY" },
  4: ACK,
  5: { 0x4: "END_HEADERS", 0x8: "PADDED" },
  6: ACK,
  9: { 0x4: "END_HEADERS" },
};
/** Where messages come in that no actor told, and go out. */
const EDGES = new Set(["caller", "socket", "timer"]);

/** Everything that was recorded, and what follows from it for one message. */
class Trace {
  constructor(about, names, rows) {
    Object.assign(this, { about, names });
    if (rows.some((row, i) => i > 0 && row[2] < rows[i - 1][2])) rows.sort((a, b) => a[2] - b[2]);
    const count = this.count = rows.length;
    const ints = () => new Int32Array(count);
    this.process = ints();
    this.id = new Float64Array(count);
    this.told = new Float64Array(count);
    this.taken = new Float64Array(count).fill(NaN);
    this.sender = ints();
    this.receiver = ints();
    this.type = ints();
    this.text = ints();
    this.dead = new Uint8Array(count);
    this.connection = ints();
    this.stream = ints();
    this.first = new Float64Array(count);
    this.frames = new Map();
    this.data = new Map();
    this.remote = new Map();
    this.cause = ints();
    this.causeId = new Float64Array(count);
    this.texts = [];
    this.read(rows);
    this.link();
    this.starts = new Map();
    this.ends = new Map();
    this.end = 0;
    for (let i = 0; i < count; i++) {
      const process = this.process[i];
      if (!this.starts.has(process)) this.starts.set(process, this.told[i]);
      const until = this.until(i);
      if (!(this.ends.get(process) >= until)) this.ends.set(process, until);
      this.end = Math.max(this.end, until);
    }
    this.processes = [...this.starts.keys()];
    for (const process of this.processes) {
      const looked = about.looked[names[process]] ?? 0;
      if (looked > this.ends.get(process)) this.ends.set(process, looked);
      this.end = Math.max(this.end, looked);
    }
  }

  read(rows) {
    const known = new Map();
    rows.forEach((row, i) => {
      this.process[i] = row[0];
      this.id[i] = row[1];
      this.told[i] = row[2];
      this.sender[i] = row[3];
      this.receiver[i] = row[4];
      this.type[i] = row[5];
      let text = known.get(row[6]);
      if (text === undefined) {
        known.set(row[6], text = this.texts.length);
        this.texts.push(row[6]);
      }
      this.text[i] = text;
      if (row[7] != null) this.taken[i] = Math.max(row[7], row[2]);
      this.causeId[i] = row[8] ?? 0;
      this.dead[i] = row[9] ?? 0;
      this.connection[i] = row[10] ?? NONE;
      this.stream[i] = row[11] ?? NONE;
      this.first[i] = row[12] ?? 0;
      if (row[13]) this.frames.set(i, row[13]);
      if (row[14]) this.data.set(i, row[14]);
      if (row[15]) this.remote.set(i, row[15]);
    });
  }

  /** Finds each event's cause, by its id and process; one that is not older would lead in a circle. */
  link() {
    const byId = new Map();
    for (let i = 0; i < this.count; i++) {
      let ids = byId.get(this.process[i]);
      if (!ids) byId.set(this.process[i], ids = new Map());
      ids.set(this.id[i], i);
    }
    for (let i = 0; i < this.count; i++) {
      const cause = this.causeId[i];
      this.cause[i] = cause > 0 && cause < this.id[i] ? byId.get(this.process[i]).get(cause) ?? NONE : NONE;
    }
    this.byId = byId;
    for (const [i, flat] of this.remote) {
      const sent = [];
      for (let k = 0; k < flat.length; k += 2) {
        const found = byId.get(flat[k])?.get(flat[k + 1]);
        if (found !== undefined && found !== i) sent.push(found);
      }
      this.remote.set(i, sent);
    }
  }

  /** The events by which the other end sent what arrived with this one; known only where a merge has said so. */
  sentFor(i) {
    return this.remote.get(i) ?? [];
  }

  name(number) {
    return number === NONE ? "" : this.names[number];
  }

  /** The number of a name, or NONE. */
  numberOf(name) {
    this.numbers ??= new Map(this.names.map((each, number) => [each, number]));
    return this.numbers.get(name) ?? NONE;
  }

  /** When the message was off its sender's hands: taken, or told where nobody took it. */
  until(i) {
    return this.taken[i] >= 0 ? this.taken[i] : this.told[i];
  }

  /** One number for a name in a process. */
  keyOf(process, number) {
    return process * 2 ** 26 + number;
  }

  /** Whether it went out of the program, where nobody takes it that we know of. */
  isToEdge(i) {
    return EDGES.has(this.names[this.receiver[i]]);
  }

  textOf(i) {
    return this.texts[this.text[i]];
  }

  typeOf(i) {
    return this.names[this.type[i]];
  }

  /** The frames of an event, as objects. */
  framesOf(i) {
    const flat = this.frames.get(i) ?? [];
    const frames = [];
    for (let k = 0; k < flat.length; k += 4) {
      frames.push({ kind: flat[k], flags: flat[k + 1], stream: flat[k + 2], length: flat[k + 3] });
    }
    return frames;
  }

  /** Whether an event is about a stream: told so, or by one of its frames. */
  concerns(i, stream) {
    if (this.stream[i] === stream) return true;
    const flat = this.frames.get(i);
    if (flat) for (let k = 2; k < flat.length; k += 4) if (flat[k] === stream) return true;
    return false;
  }

  /** The events that each event led to. */
  effects(i) {
    if (!this.led) {
      this.led = new Map();
      for (let k = 0; k < this.count; k++) {
        const cause = this.cause[k];
        if (cause === NONE) continue;
        if (!this.led.has(cause)) this.led.set(cause, []);
        this.led.get(cause).push(k);
      }
    }
    return this.led.get(i) ?? [];
  }

  /**
   * An event and its causes, newest first, up to the first one: within a process by what its sender was handling, and
   * from one process's frames to the other's that sent them.
   */
  chain(i) {
    const chain = [];
    const seen = new Set();
    let stream = NONE;
    while (i !== NONE && !seen.has(i)) {
      seen.add(i);
      chain.push(i);
      if (this.stream[i] > 0) stream = this.stream[i];
      i = this.cause[i] === NONE ? this.sentAs(i, stream) : this.cause[i];
    }
    return chain;
  }

  /** The event of the other end that sent the frames which an event brought; only where both ends are in the trace. */
  sentAs(i, stream) {
    if (this.causeId[i] > 0) return NONE;
    const arrival = this.typeOf(i) === "FramesArrived" ? i
      : this.effects(i).find((k) => this.typeOf(k) === "FramesArrived" && this.concerns(k, stream))
      ?? this.effects(i).find((k) => this.typeOf(k) === "FramesArrived");
    if (arrival === undefined || !this.first[arrival]) return NONE;
    const known = this.sentFor(arrival);
    if (known.length) return known.findLast((k) => this.concerns(k, stream)) ?? known[known.length - 1];
    const at = this.framesOf(arrival).findIndex((frame) => frame.stream === stream);
    const frame = this.first[arrival] + Math.max(0, at);
    const sent = this.sent().get(this.peers().get(this.ending(arrival))) ?? [];
    let low = 0;
    let high = sent.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.first[sent[middle]] <= frame) low = middle + 1;
      else high = middle;
    }
    const found = sent[low - 1];
    return found !== undefined && frame < this.first[found] + this.frames.get(found).length / 4 ? found : NONE;
  }

  ending(i) {
    return `${this.names[this.process[i]]}\n${this.name(this.connection[i])}`;
  }

  /** What each end of a connection has sent, in order. */
  sent() {
    if (!this.sentBy) {
      this.sentBy = new Map();
      for (const i of this.frames.keys()) {
        if (this.typeOf(i) !== "FramesSent" || !this.first[i]) continue;
        const end = this.ending(i);
        if (!this.sentBy.has(end)) this.sentBy.set(end, []);
        this.sentBy.get(end).push(i);
      }
      for (const events of this.sentBy.values()) events.sort((a, b) => this.first[a] - this.first[b]);
    }
    return this.sentBy;
  }

  /** Each end of a connection and the other one, where addresses say beyond doubt which that is. */
  peers() {
    if (!this.peerOf) {
      this.peerOf = new Map();
      const ends = new Map();
      const key = (conversation, from, to) => `${conversation.side}\n${conversation[from]}\n${conversation[to]}`;
      for (const one of this.about.conversations) {
        const place = key(one, "local", "peer");
        ends.set(place, ends.has(place) || !one.local || !one.peer ? null : one);
      }
      for (const one of this.about.conversations) {
        const side = one.side === "client" ? "server" : "client";
        const other = ends.get(key({ ...one, side }, "peer", "local"));
        if (other) this.peerOf.set(`${one.process}\n${one.name}`, `${other.process}\n${other.name}`);
      }
    }
    return this.peerOf;
  }
}

/** A frame as one reads it: name, stream, length, flags. */
function frameText({ kind, flags, stream, length }) {
  const words = [FRAME_NAMES[kind] ?? `0x${kind.toString(16)}`, stream, length];
  let rest = flags;
  for (const [flag, name] of Object.entries(FRAME_FLAGS[kind] ?? {})) {
    if (!(flags & flag)) continue;
    words.push(name);
    rest &= ~flag;
  }
  if (rest) words.push(`0x${rest.toString(16)}`);
  return words.join(" ");
}

/** A length of time, in the unit that suits it. */
function duration(us) {
  const size = Math.abs(us);
  if (size >= 1e6) return `${(us / 1e6).toFixed(size >= 1e8 ? 0 : 3)} s`;
  if (size >= 1e3) return `${(us / 1e3).toFixed(3)} ms`;
  return `${us.toFixed(1)} µs`;
}

/** A moment of the trace, in seconds. */
function moment(us) {
  return (us / 1e6).toFixed(6);
}

function thousands(number) {
  return number.toLocaleString("en-US");
}

function counted(number, noun) {
  return `${thousands(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Reads a part of the page's data, and lets the browser forget its text. */
function embedded(id) {
  const element = document.getElementById(id);
  const value = JSON.parse(element.textContent);
  element.remove();
  return value;
}
