// The filter box: all words must match.

const PREFIXES = ["actor", "type", "stream", "process", "connection"];

/** Splits a query into terms; a term is `{where, what, not}`. */
function parseQuery(query) {
  const terms = [];
  for (const [, minus, prefix, quoted, bare] of query.matchAll(/(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S+))/g)) {
    let where = prefix?.toLowerCase() ?? "";
    let what = (quoted ?? bare ?? "").toLowerCase();
    if (where && !PREFIXES.includes(where)) {
      what = `${where}:${what}`;
      where = "";
    }
    // A prefix alone is one that is still being typed.
    const unfinished = !where && PREFIXES.some((each) => what === `${each}:`);
    if (what && !unfinished) terms.push({ where, what, not: minus === "-" });
  }
  return terms;
}

/** Tests of events; what can be asked of a name or a text is asked once for each that differs. */
class Filter {
  constructor(trace) {
    this.trace = trace;
    this.names = trace.names.map((name) => name.toLowerCase());
    this.texts = null;
  }

  /** Which names, or texts, contain a word. */
  flags(strings, word) {
    const flags = new Uint8Array(strings.length);
    for (let k = 0; k < strings.length; k++) if (strings[k].includes(word)) flags[k] = 1;
    return flags;
  }

  test({ where, what }) {
    const { trace } = this;
    if (where === "stream") return this.streamTest(what);
    const names = this.flags(this.names, what);
    switch (where) {
      case "actor":
        return (i) => names[trace.sender[i]] || names[trace.receiver[i]];
      case "type":
        return (i) => names[trace.type[i]];
      case "process":
        return (i) => names[trace.process[i]];
      case "connection":
        return (i) => trace.connection[i] !== NONE && names[trace.connection[i]];
      default: {
        this.texts ??= trace.texts.map((text) => text.toLowerCase());
        const texts = this.flags(this.texts, what);
        return (i) => names[trace.sender[i]] || names[trace.receiver[i]] || names[trace.type[i]]
          || texts[trace.text[i]];
      }
    }
  }

  streamTest(what) {
    const { trace } = this;
    const [, connection, digits] = /^(?:(.*)#)?(\d+)$/.exec(what) ?? [];
    if (digits === undefined) return () => false;
    const stream = Number(digits);
    if (connection === undefined) return (i) => trace.concerns(i, stream);
    const number = this.names.indexOf(connection);
    return (i) => trace.connection[i] === number && trace.concerns(i, stream);
  }

  /** The events that a query matches, in order. */
  apply(query) {
    const { count } = this.trace;
    const tests = parseQuery(query).map((term) => {
      const test = this.test(term);
      return term.not ? (i) => !test(i) : test;
    });
    const found = new Int32Array(count);
    let length = 0;
    for (let i = 0; i < count; i++) {
      if (tests.every((test) => test(i))) found[length++] = i;
    }
    return found.subarray(0, length);
  }
}
