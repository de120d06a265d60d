// What went wrong, and what waits: everything that deserves red or amber.

const STALL = 1;
const ERROR = 2;
const SECOND = 1e6;
const SEVERITIES = ["", "stall", "error"];

const SUSPECTS = new Set(["StreamFailed", "PeerReset", "ConnectionLost", "Exited"]);

/** Why a message is an error or a stall of its own, or null. */
function verdict(trace, i) {
  const type = trace.typeOf(i);
  const wait = trace.taken[i] - trace.told[i];
  if (!(wait > SECOND) && !trace.dead[i] && !SUSPECTS.has(type)) return null;
  const text = trace.textOf(i);
  if (type === "StreamFailed") return [ERROR, "Stream failed", text];
  if (type === "PeerReset") return [ERROR, "Peer reset", text];
  if (type === "ConnectionLost" && text !== "closed" && text !== "") return [ERROR, "Connection lost", text];
  if (type === "Exited" && /^\S+ crashed\b/.test(text)) return [ERROR, "Crashed", text];
  if (trace.dead[i]) return [ERROR, "Dead letter", `${type} to ${trace.names[trace.receiver[i]]}: nobody took it`];
  if (wait > SECOND) return [STALL, "Taken late", `${type} waited ${duration(wait)} for its receiver`];
  return null;
}

/** Every problem of a trace, by time, and the worst of each event. */
class Problems {
  constructor(trace, streams) {
    this.trace = trace;
    this.streams = streams;
    this.all = [];
    this.severity = new Uint8Array(trace.count);
    const takers = new Set();
    for (let i = 0; i < trace.count; i++) if (trace.taken[i] >= 0) takers.add(trace.process[i]);
    for (let i = 0; i < trace.count; i++) {
      const found = verdict(trace, i) ?? this.neverTaken(i, takers);
      if (found) this.add(i, ...found);
    }
    for (const stream of streams.all) this.judge(stream);
    this.all.sort((a, b) => a.time - b.time || b.severity - a.severity);
    this.errors = this.all.filter((problem) => problem.severity === ERROR).length;
    this.stalls = this.all.length - this.errors;
  }

  add(event, severity, kind, text, stream = null) {
    const time = stream ? stream.last : this.trace.told[event];
    this.all.push({ event, severity, kind, text, stream, time });
    this.severity[event] = Math.max(this.severity[event], severity);
  }

  neverTaken(i, takers) {
    const { trace } = this;
    if (trace.taken[i] >= 0 || !takers.has(trace.process[i]) || trace.isToEdge(i)) return null;
    const wait = trace.ends.get(trace.process[i]) - trace.told[i];
    return wait > SECOND
      ? [STALL, "Never taken", `${trace.typeOf(i)} had waited ${duration(wait)} when the trace ended`]
      : null;
  }

  /** An open stream stalls when all of it is silent, or when its body has not moved although there is some to move. */
  judge(stream) {
    if (stream.state !== "open") return;
    const still = this.trace.ends.get(stream.process) - stream.progress;
    const waits = [];
    if (stream.unsent) waits.push(`${thousands(stream.unsent)} bytes wait to be sent`);
    if (stream.unread) waits.push(`${thousands(stream.unread)} bytes have come and nobody read them`);
    const label = this.streams.label(stream);
    if (stream.silence >= SECOND) {
      const why = waits.length ? `: ${waits.join(", ")}` : "";
      this.add(stream.lastEvent, STALL, "Silent stream",
        `${label} is open and was silent for the last ${duration(stream.silence)}${why}`, stream);
    } else if (waits.length && stream.progress && still >= SECOND) {
      this.add(stream.lastEvent, STALL, "Waiting stream",
        `${label} is open and its body has not moved for ${duration(still)}: ${waits.join(", ")}`, stream);
    }
  }

  of(event) {
    return this.all.filter((problem) => problem.event === event);
  }
}
