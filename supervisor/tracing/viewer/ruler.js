// The top of the timeline: the whole trace at a glance, and the axis of time.

/** The smallest step of 1, 2 or 5 times a power of ten that leaves `room` pixels between ticks. */
function tickStep(span, width, room) {
  const least = (span * room) / Math.max(1, width);
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least) ?? 10 * power;
}

function tickLabel(us, step) {
  const [size, unit] = step >= 1e5 ? [1e6, "s"] : step >= 100 ? [1e3, "ms"] : [1, "µs"];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
  return `${(us / size).toFixed(digits)} ${unit}`;
}

/** Draws both, and says where the lines of the grid are. */
class Ruler {
  constructor(scene) {
    this.scene = scene;
  }

  draw() {
    this.drawAxis();
    this.drawOverview();
  }

  ticks() {
    const { from, to } = this.scene.app.view;
    const step = tickStep(to - from, this.scene.width, 110);
    // Far from the beginning, fine ticks count from a round moment that is written once.
    const base = from > step * 2000 ? Math.floor(from / (step * 100)) * step * 100 : 0;
    const ticks = [];
    for (let n = Math.ceil((from - base) / step); base + n * step <= to; n++) ticks.push(n * step);
    return { step, base, ticks };
  }

  drawAxis() {
    const { context, colors, app, width } = this.scene;
    context.fillStyle = colors.panel;
    context.fillRect(0, OVERVIEW, width, AXIS);
    context.fillStyle = colors.line;
    context.fillRect(0, HEAD - 1, width, 1);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const { step, base, ticks } = this.ticks();
    let free = 0;
    if (base) {
      const label = `${tickLabel(base, Math.min(step * 100, 1e6))} +`;
      context.fillStyle = colors.text;
      context.fillText(label, 6, OVERVIEW + AXIS / 2);
      free = context.measureText(label).width + 16;
    }
    for (const tick of ticks) {
      const x = Math.round(this.scene.x(base + tick));
      context.fillStyle = colors.muted;
      context.fillRect(x, HEAD - 6, 1, 6);
      const label = tickLabel(tick, step);
      if (x + 5 < free || x + 5 + context.measureText(label).width > width) continue;
      context.fillText(label, x + 5, OVERVIEW + AXIS / 2);
    }
    if (app.pointer !== null) this.drawPointerTime();
  }

  drawPointerTime() {
    const { context, colors, app, width } = this.scene;
    const { from, to } = app.view;
    const time = from + (app.pointer / width) * (to - from);
    const label = tickLabel(time, (to - from) / width);
    const size = context.measureText(label).width + 12;
    const left = Math.max(0, Math.min(width - size, app.pointer - size / 2));
    context.fillStyle = colors.text;
    context.fillRect(left, OVERVIEW + 2, size, AXIS - 4);
    context.fillStyle = colors.bg;
    context.fillText(label, left + 6, OVERVIEW + AXIS / 2);
  }

  /** The whole trace, what of it is in sight, and where the problems are. */
  drawOverview() {
    const { context, colors, app, width } = this.scene;
    context.fillStyle = colors.panel;
    context.fillRect(0, 0, width, OVERVIEW);
    const columns = this.overviewCounts();
    let most = 1;
    for (const count of columns) most = Math.max(most, count);
    context.fillStyle = colors.arrow;
    columns.forEach((count, column) => {
      if (!count) return;
      const height = Math.max(2, (Math.log2(1 + count) / Math.log2(1 + most)) * (OVERVIEW - 14));
      context.fillRect(column * 2, OVERVIEW - 3 - height, 2, height);
    });
    const scale = width / app.whole;
    for (const severity of [STALL, ERROR]) {
      context.fillStyle = severity === ERROR ? colors.error : colors["stall-mark"];
      let last = NONE;
      for (const problem of app.problems.all) {
        const x = Math.round(problem.time * scale);
        if (problem.severity !== severity || x === last) continue;
        context.fillRect(x - 1, 2, 3, 7);
        last = x;
      }
    }
    const left = Math.max(0, app.view.from * scale);
    const right = Math.min(width, app.view.to * scale);
    context.globalAlpha = 0.14;
    context.fillStyle = colors.accent;
    context.fillRect(left, 0, Math.max(2, right - left), OVERVIEW);
    context.globalAlpha = 1;
    context.strokeStyle = colors.accent;
    context.lineWidth = 1.5;
    context.strokeRect(left + 0.75, 0.75, Math.max(2, right - left) - 1.5, OVERVIEW - 1.5);
  }

  overviewCounts() {
    const { app, width } = this.scene;
    if (this.counted?.matches !== app.matches || this.counted.width !== width) {
      const columns = new Uint32Array(Math.max(1, Math.ceil(width / 2)));
      const scale = columns.length / app.whole;
      for (const i of app.matches) columns[Math.min(columns.length - 1, Math.floor(app.trace.told[i] * scale))] += 1;
      this.counted = { matches: app.matches, width, columns };
    }
    return this.counted.columns;
  }
}
