// Runs the extension of its first argument in a pi of the test's own, without a model. Each line on
// stdin is a step, a JSON list: ["on", event, value] sends an event of pi, ["call", tool, arguments]
// runs a tool, ["tools"] returns the names of all, ["shown"] notes and widgets, ["timers"] the delays
// of the extension's timers; ["fire"] runs these at once, ["env", name, value] sets a variable. Each
// step gets one line of JSON on stdout.
import { createInterface } from "node:readline";

const timers = [];
const real = { setTimeout, setInterval, clearTimeout, clearInterval };
// Timers of the extension wait for a step; those of Node's own modules run.
const arm = (name) => (run, ms, ...more) => {
  if (!new Error().stack.includes(process.argv[2])) return real[name](run, ms, ...more);
  const timer = { run, ms, unref: () => timer };
  timers.push(timer);
  return timer;
};
const disarm = (name) => (timer) => {
  if (!timers.includes(timer)) return real[name](timer?.run ? undefined : timer);
  timers.splice(timers.indexOf(timer), 1);
};
for (const name of ["setTimeout", "setInterval"]) globalThis[name] = arm(name);
for (const name of ["clearTimeout", "clearInterval"]) globalThis[name] = disarm(name);

const handlers = {};
const tools = new Map();
const shown = { notes: [], widgets: [] };
const pi = {
  on: (name, handler) => (handlers[name] = handler),
  registerTool: (tool) => tools.set(tool.name, tool),
};
const ctx = {
  hasUI: true,
  ui: {
    notify: (text) => shown.notes.push(text),
    setWidget: (_key, lines) => shown.widgets.push(lines),
  },
};

const steps = {
  on: async (name, event) => (await handlers[name]?.(event ?? {}, ctx)) ?? null,
  call: async (name, params) => {
    const seen = [];
    try {
      const found = await tools.get(name).execute("1", params, undefined, (part) => seen.push(part));
      return { ...found, seen };
    } catch (error) {
      return { thrown: error.message };
    }
  },
  env: async (name, value) => (process.env[name] = value),
  tools: async () => [...tools.keys()],
  shown: async () => shown,
  timers: async () => timers.map(({ ms }) => ms),
  fire: async () => timers.splice(0).map(({ run }) => run()).length,
};

const { default: extension } = await import(process.argv[2]);
await extension(pi);
process.stdout.write('"loaded"\n');
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...rest] = JSON.parse(line);
  const result = await steps[name](...rest);
  process.stdout.write(`${JSON.stringify(result ?? null)}\n`);
}
// Without handles of its own this ends; a hanging request would show as a time-out of the test.
real.setTimeout(() => process.exit(0), 0);
