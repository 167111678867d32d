// Reads the daemon's metrics in Prometheus's text format.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** The metrics of one time. */
export class Metrics {
  constructor(text) {
    this.time = Date.now();
    /** The samples by their metric's name. */
    this.samples = new Map();
    for (const line of text.split('\n')) {
      const found = line.startsWith('#') ? null : line.match(LINE);
      if (!found) continue;
      const [, name, labels = '', value] = found;
      const sample = { labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, raw]) => [key, unescape(raw)])), value: Number(value) };
      if (this.samples.has(name)) this.samples.get(name).push(sample);
      else this.samples.set(name, [sample]);
    }
  }

  has(name) {
    return this.samples.has(name);
  }

  /** Returns the sum of a metric's samples that have these labels. */
  sum(name, labels = {}) {
    return this.of(name, labels).reduce((sum, sample) => sum + sample.value, 0);
  }

  /** Returns the labels of each sample. */
  labels(name) {
    return this.of(name).map((sample) => sample.labels);
  }

  /** Returns the sum per value of a label, the largest first. */
  groups(name, label) {
    const sums = new Map();
    for (const { labels, value } of this.of(name)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
    return [...sums].sort((a, b) => b[1] - a[1]);
  }

  /** Returns a row with the mean of a histogram, or `null` if it is empty. */
  mean(name, labels, title) {
    const number = this.sum(`${name}_count`, labels);
    return number ? [title, this.sum(`${name}_sum`, labels) / number, 'mean since the start'] : null;
  }

  of(name, labels = {}) {
    const wanted = Object.entries(labels);
    return (this.samples.get(name) ?? []).filter((sample) => wanted.every(([key, value]) => sample.labels[key] === value));
  }
}

function unescape(text) {
  return text.replace(/\\(.)/g, (_, character) => (character === 'n' ? '\n' : character));
}
