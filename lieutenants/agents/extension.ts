// An extension for pi without an MCP client of its own (before 0.99): the tools of reef, and signs
// of life of the VM that pi runs on. One file for Node and Bun, without dependencies:
//
//   curl -H "Authorization: Bearer $VERS_AUTH_TOKEN" -o reef.ts $VERS_INFRA_URL/agent/extension.ts
//   pi -e ./reef.ts
//
// It reads VERS_INFRA_URL, VERS_AUTH_TOKEN, VERS_VM_ID, VERS_AGENT_NAME and VERS_AGENT_ROLE. Where
// reef started pi itself (REEF_LIEUTENANT), it brings the tools only: reef knows that agent already.

export const VERSION = "1";

const LOAD_MS = 5_000;
const CALL_MS = 60_000;
const BEHAVIOUR_MS = 5_000;
const SHUTDOWN_MS = 2_000;
const RELOAD_MS = 15_000;
const WIDGET_MS = 30_000;
const BEAT_MS = 30_000;
const MAX_BEAT_MS = 600_000;
// The server holds a response for a minute at the latest.
const ROUND_SECONDS = 50;
const DEFAULT_WAIT_SECONDS = 60;
const WAIT = "reef_wait";
const ROLES = ["infra", "lieutenant", "worker", "golden", "custom"];

type Json = Record<string, any>;
type Tool = { name: string; description: string; inputSchema: Json };
type Result = { text: string; details?: Json; isError: boolean };
type Options = { body?: Json; signal?: AbortSignal; ms?: number };

/** A response with an error; `status` is 0 if there was none. */
class ReefError extends Error {
  status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

const setting = (name: string): string => (process.env[name] ?? "").trim();
const baseUrl = (): string => setting("VERS_INFRA_URL").replace(/\/+$/, "");
const agentName = setting("VERS_AGENT_NAME") || `agent-${process.pid}`;
const vmId = setting("VERS_VM_ID");
const role = ROLES.includes(setting("VERS_AGENT_ROLE")) ? setting("VERS_AGENT_ROLE") : "worker";
const isManaged = setting("REEF_LIEUTENANT") !== "";

/** Return the JSON of a response. Throws ReefError, and what `signal` was aborted with. */
async function request(method: string, path: string, options: Options = {}): Promise<any> {
  const base = baseUrl();
  if (!base) throw new ReefError("VERS_INFRA_URL is not set: it is the address of reef", 0);
  const headers: Record<string, string> = {
    "Content-Type": "application/json",
    "User-Agent": `reef-extension/${VERSION}`,
  };
  const token = setting("VERS_AUTH_TOKEN");
  if (token) headers.Authorization = `Bearer ${token}`;
  const limit = AbortSignal.timeout(options.ms ?? CALL_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  let response: Response;
  let text: string;
  try {
    // A redirect could lead the token to another host.
    response = await fetch(base + path, { method, headers, body, signal, redirect: "error" });
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const why = limit.aborted ? "it did not answer in time" : reasonOf(error);
    throw new ReefError(`${base} cannot be reached: ${why}`, 0);
  }
  const found = parsed(text);
  if (!response.ok) throw new ReefError(found?.error ?? `HTTP ${response.status}`, response.status);
  if (found === undefined) throw new ReefError(`${base}${path} does not answer like reef`, 0);
  return found;
}

function parsed(text: string): any {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function reasonOf(error: any): string {
  return String(error?.cause?.code ?? error?.cause?.message ?? error?.message ?? error);
}

/** Wait without keeping the process alive. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

async function call(name: string, params: Json, signal?: AbortSignal): Promise<Result> {
  const path = `/tools/${encodeURIComponent(name)}`;
  return await request("POST", path, { body: params, signal, ms: CALL_MS + 15_000 });
}

/** Call `reef_wait` until it is done or its time is over, also while reef is restarted. */
async function wait(params: Json, signal?: AbortSignal, onUpdate?: (part: Json) => void): Promise<Result> {
  const end = Date.now() + Number(params.seconds ?? DEFAULT_WAIT_SECONDS) * 1000;
  let given = params;
  for (;;) {
    const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    try {
      const result = await call(WAIT, { ...given, seconds: Math.min(left, ROUND_SECONDS) }, signal);
      if (result.isError || result.details?.done || left <= ROUND_SECONDS) return result;
      // To go on without a gap, for example behind an event.
      given = { ...given, ...result.details?.again };
      onUpdate?.({ content: [{ type: "text", text: result.text }], details: result.details ?? {} });
    } catch (error) {
      const passes = error instanceof ReefError && [0, 429, 502, 503, 504].includes(error.status);
      if (!passes || !baseUrl() || left <= 0) throw error;
      await sleep(Math.min(2_000, left * 1000), signal);
    }
  }
}

/** Run a tool for pi, which takes an exception for an error. */
async function execute(tool: string, params: Json, signal?: AbortSignal, onUpdate?: any): Promise<Json> {
  let result: Result;
  try {
    result = tool === WAIT ? await wait(params, signal, onUpdate) : await call(tool, params, signal);
  } catch (error) {
    if (error instanceof ReefError) throw new Error(`Error: ${error.message}`);
    throw error;
  }
  if (result.isError) throw new Error(result.text);
  return { content: [{ type: "text", text: result.text }], details: result.details ?? {} };
}

/** The tools of reef in this pi. They are fetched again while reef does not answer. */
class Tools {
  problem = "";
  isLoaded = false;
  #pi: any;
  #timer: ReturnType<typeof setInterval> | undefined;
  #fetch: Promise<void> | undefined;

  constructor(pi: any) {
    this.#pi = pi;
  }

  /** Fetch and register the tools, unless they are there; never throws. */
  load(): Promise<void> {
    if (this.isLoaded) return Promise.resolve();
    this.#fetch ??= this.#load().finally(() => {
      this.#fetch = undefined;
    });
    return this.#fetch;
  }

  async #load(): Promise<void> {
    try {
      const { tools } = (await request("GET", "/tools", { ms: LOAD_MS })) as { tools: Tool[] };
      for (const tool of tools) this.#register(tool);
      this.isLoaded = true;
      this.problem = "";
      this.stop();
    } catch (error) {
      this.problem = String((error as Error)?.message ?? error);
    }
  }

  #register({ name, description, inputSchema }: Tool): void {
    this.#pi.registerTool({
      name,
      label: name,
      description,
      // Only those for daily work are listed in the system prompt.
      ...(name.startsWith("reef_") ? { promptSnippet: description.split(/(?<=[.:])\s/)[0] } : {}),
      parameters: inputSchema,
      execute: (_id: string, params: Json, signal?: AbortSignal, onUpdate?: any) =>
        execute(name, params ?? {}, signal, onUpdate),
    });
  }

  /** Try again from time to time. */
  keepTrying(): void {
    if (this.isLoaded || this.#timer || !baseUrl()) return;
    this.#timer = setInterval(() => void this.load(), RELOAD_MS);
    this.#timer.unref?.();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** The entry of this VM in the registry: registered at the start, then kept alive. */
class Registration {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isStarted = false;
  #end = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #beatMs = BEAT_MS;
  readonly #path = `/registry/vms/${encodeURIComponent(vmId)}`;

  start(): void {
    if (this.#isStarted) return;
    this.#isStarted = true;
    this.#end = new AbortController();
    this.#running = this.#beat();
  }

  /** Say that the VM has stopped. */
  async stop(): Promise<void> {
    if (!this.#isStarted) return;
    this.pause();
    // A heartbeat after it would say that the VM runs.
    await this.#running;
    await attempt(request("PATCH", this.#path, { body: { status: "stopped" }, ms: SHUTDOWN_MS }));
  }

  pause(): void {
    this.#isStarted = false;
    this.#end.abort();
    clearTimeout(this.#timer);
  }

  async #beat(): Promise<void> {
    try {
      const told = await this.#send();
      const ms = Number(told?.nextBeatInMs);
      this.#beatMs = ms > 0 ? Math.min(ms, MAX_BEAT_MS) : BEAT_MS;
    } catch {
      // Reef is away, has refused, or this is the end; else the next beat tries again.
    }
    if (!this.#isStarted) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#beat();
    }, this.#beatMs);
    this.#timer.unref?.();
  }

  /** Send a heartbeat, which also says that the VM runs; register a VM that is unknown. */
  async #send(): Promise<any> {
    const options = { ms: BEHAVIOUR_MS, signal: this.#end.signal };
    const beat = () => request("POST", `${this.#path}/heartbeat`, options);
    try {
      return await beat();
    } catch (error) {
      if (!(error instanceof ReefError) || error.status !== 404) throw error;
    }
    const body = {
      id: vmId,
      name: agentName,
      role,
      address: `${vmId}.vm.vers.sh`,
      registeredBy: agentName,
      metadata: { pid: process.pid, startedAt: new Date().toISOString() },
    };
    await request("POST", "/registry/vms", { ...options, body });
    return await beat();
  }
}

/** Wait for something whose failure has no consequence. */
async function attempt(work: Promise<unknown>): Promise<void> {
  await work.catch(() => undefined);
}

/** The lines above the input, as far as reef answers. */
async function widgetLines(tools: Tools): Promise<string[]> {
  const count = (rows: Json[], status: string) => rows.filter((each) => each.status === status).length;
  const parts: Array<() => Promise<string>> = [
    async () => {
      const found = await request("GET", "/lieutenant/lieutenants", { ms: BEHAVIOUR_MS });
      if (!found.count) return "";
      const states = ["working", "idle", "paused"].map((status) => {
        const number = count(found.lieutenants, status);
        return number ? `, ${number} ${status}` : "";
      });
      return `Lieutenants: ${found.count} LT${states.join("")}`;
    },
    async () => {
      const found = await request("GET", "/registry/vms", { ms: BEHAVIOUR_MS });
      return `Registry: ${found.count} VMs (${count(found.vms, "running")} running)`;
    },
    async () => {
      const found = await request("GET", "/vm-tree/stats", { ms: BEHAVIOUR_MS });
      return found.total ? `VM Tree: ${found.total} VMs, ${found.roots} roots` : "";
    },
  ];
  const texts = await Promise.all(parts.map((part) => part().catch(() => "")));
  const lines = texts.filter((text) => text !== "");
  if (!lines.length && tools.problem) lines.push(`No tools yet: ${tools.problem}`);
  return lines.length ? [`--- Fleet Services --- ${baseUrl()}/ui`, ...lines] : [];
}

class Widget {
  #timer: ReturnType<typeof setInterval> | undefined;

  start(ctx: any, tools: Tools): void {
    this.stop();
    const draw = async () => {
      const lines = await widgetLines(tools);
      if (lines.length && this.#timer) ctx.ui.setWidget("reef", lines);
    };
    this.#timer = setInterval(() => void attempt(draw()), WIDGET_MS);
    this.#timer.unref?.();
    void attempt(draw());
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** Register VMs that other extensions make, and remove those that they delete. */
function followBus(pi: any): void {
  const register = (id: string, name: string, vmRole: string, address: string, metadata: Json) => {
    const body = { id, name, role: vmRole, address, registeredBy: "reef", metadata };
    void attempt(request("POST", "/registry/vms", { body, ms: BEHAVIOUR_MS }));
  };
  const remove = ({ vmId: id }: Json) =>
    void attempt(request("DELETE", `/registry/vms/${encodeURIComponent(id)}`, { ms: BEHAVIOUR_MS }));
  pi.events?.on("vers:agent_spawned", (made: Json) => {
    const createdAt = new Date().toISOString();
    const facts = { agentId: made.label, commitId: made.commitId, registeredVia: "reef-extension", createdAt };
    register(made.vmId, made.label, made.role || "worker", made.address, facts);
  });
  pi.events?.on("vers:lt_created", (made: Json) => {
    const createdAt = made.createdAt ?? new Date().toISOString();
    const { name, ltRole, commitId } = made;
    const facts = { agentId: name, role: ltRole, commitId, createdAt, registeredVia: "reef-extension" };
    register(made.vmId, name, made.role || "lieutenant", made.address, facts);
  });
  pi.events?.on("vers:agent_destroyed", remove);
  pi.events?.on("vers:lt_destroyed", remove);
}

export default async function (pi: any): Promise<void> {
  const tools = new Tools(pi);
  const registration = new Registration();
  const widget = new Widget();
  const keepsEntry = vmId !== "" && baseUrl() !== "" && !isManaged;
  await tools.load();
  if (baseUrl()) followBus(pi);

  pi.on("session_start", (_event: Json, ctx: any) => {
    tools.keepTrying();
    if (keepsEntry) registration.start();
    if (isManaged || !ctx?.hasUI) return;
    if (tools.problem) ctx.ui.notify(`The tools of reef are not there yet: ${tools.problem}`, "warning");
    if (baseUrl()) widget.start(ctx, tools);
  });

  // The first answer after reef is back has the tools again.
  pi.on("before_agent_start", async () => {
    if (!tools.isLoaded && baseUrl()) await tools.load();
  });

  pi.on("session_shutdown", async (event: Json) => {
    tools.stop();
    widget.stop();
    // In a new session of the same pi everything goes on.
    if ((event?.reason ?? "quit") === "quit") await registration.stop();
    else registration.pause();
  });
}
