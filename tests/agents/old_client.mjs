// The HTTP client and the tools of the extension that deployed agents have, as they are described:
// no normalised slashes, a Content-Type on every request, texts made from few fields of a response.
// Each line on stdin is a call, `[tool, parameters]`; each gets a line `{"text", "isError"}`.
import { createInterface } from "node:readline";

const agentName = process.env.VERS_AGENT_NAME ?? `agent-${process.pid}`;

async function api(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (process.env.VERS_AUTH_TOKEN) headers.Authorization = `Bearer ${process.env.VERS_AUTH_TOKEN}`;
  const response = await fetch(process.env.VERS_INFRA_URL + path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  let found = text;
  try {
    found = JSON.parse(text);
  } catch {}
  if (!response.ok) throw new Error(`${method} ${path} (${response.status}): ${found?.error ?? text}`);
  return found;
}

const part = encodeURIComponent;
const json = (value) => JSON.stringify(value, null, 2);
const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.length ? `?${new URLSearchParams(given)}` : "";
};
const AT = "/lieutenant/lieutenants";
const ICONS = { working: "~", idle: "*", paused: "||", error: "X" };

const tools = {
  reef_lt_create: async ({ local = true, ...given }) => {
    const made = await api("POST", AT, { local, ...given });
    const where = made.isLocal ? "[local]" : `[VM: ${made.vmId}]`;
    return `Lieutenant "${made.name}" is ready ${where}.\n  Role: ${made.role}\n  Status: ${made.status}`;
  },
  reef_lt_send: async ({ name, ...given }) => {
    const { mode, note } = await api("POST", `${AT}/${part(name)}/send`, given);
    const shown = given.message.slice(0, 120) + (given.message.length > 120 ? "..." : "");
    return `Sent to ${name} (${mode})${note ? ` (${note})` : ""}: "${shown}"`;
  },
  reef_lt_read: async ({ name, tail, history }) => {
    const got = await api("GET", `${AT}/${part(name)}/read${query({ tail, history })}`);
    return `[${got.name}] (${got.status}, ${got.taskCount} tasks):\n\n${got.output}`;
  },
  reef_lt_status: async () => {
    const { lieutenants, count } = await api("GET", AT);
    if (!count) return "No lieutenants active.";
    return lieutenants
      .map((each) => {
        const where = each.isLocal ? "local" : `VM: ${each.vmId.slice(0, 12)}`;
        const head = `${ICONS[each.status] ?? "o"} ${each.name} [${each.status}]`;
        const more = [`Role: ${each.role}`, where, `Tasks: ${each.taskCount}`];
        return [head, ...more.map((line) => `  ${line}`), `  Last active: ${each.lastActivityAt}`].join("\n");
      })
      .join("\n\n");
  },
  reef_lt_pause: async ({ name }) => {
    await api("POST", `${AT}/${part(name)}/pause`);
    return `Lieutenant "${name}" paused. Use reef_lt_resume to wake it.`;
  },
  reef_lt_resume: async ({ name }) => {
    await api("POST", `${AT}/${part(name)}/resume`);
    return `Lieutenant "${name}" resumed. Ready for tasks.`;
  },
  reef_lt_destroy: async ({ name }) => {
    if (name !== "*") return (await api("DELETE", `${AT}/${part(name)}`)).detail;
    const { results } = await api("POST", `${AT}/destroy-all`);
    return results.length ? results.join("\n") : "No lieutenants to destroy.";
  },
  reef_lt_discover: async () => {
    const { results } = await api("POST", `${AT}/discover`);
    return ["Discovery results:", ...results].join("\n");
  },
  registry_list: async (given) => json(await api("GET", `/registry/vms${query(given)}`)),
  registry_register: async (given) =>
    json(await api("POST", "/registry/vms", { ...given, registeredBy: agentName })),
  registry_discover: async ({ role }) => json(await api("GET", `/registry/discover/${part(role)}`)),
  registry_heartbeat: async ({ id }) => json(await api("POST", `/registry/vms/${part(id)}/heartbeat`)),
  registry_lineage: async ({ id, direction = "ancestors" }) =>
    json(await api("GET", `/registry/vms/${part(id)}/${direction}`)),
  vm_tree_view: async ({ vmId: root }) => json(await api("GET", `/vm-tree/tree${query({ root })}`)),
  vm_tree_register: async (given) => {
    const vm = await api("POST", "/vm-tree/vms", given);
    return `Registered "${vm.name}" (${vm.category}) in tree. ID: ${vm.vmId}`;
  },
  vm_tree_find: async ({ type, name }) => {
    const { count, vms } = await api("GET", `/vm-tree/find/${type}/${part(name)}`);
    if (!count) return `No VMs found with ${type} "${name}".`;
    return `${count} VM(s) with ${type} "${name}":\n${json(vms)}`;
  },
  vers_config_get: async () => {
    const found = await api("GET", "/vers-config/");
    const line = (label, key) => {
      const source = found.sources[key] ? ` [${found.sources[key]}]` : "";
      return `${`${label}:`.padEnd(12)}${found[key] || "(not set)"}${source}`;
    };
    const secrets = [["API Key", "apiKey"], ["Infra URL", "infraUrl"], ["Auth Token", "authToken"]];
    const plain = [["Base URL", "baseUrl"], ["Agent Name", "agentName"], ["VM ID", "vmId"], ["Agent Role", "agentRole"]];
    const rest = plain.map(([label, key]) => `${`${label}:`.padEnd(12)}${found[key] || "(not set)"}`);
    return [...secrets.map(([label, key]) => line(label, key)), ...rest].join("\n");
  },
  vers_config_set: async ({ key, value }) => {
    await api("PUT", `/vers-config/${part(key)}`, { value });
    return `Set ${key} (source: store).`;
  },
  reef_boot_generate: async (given) => {
    const { name, type, profile, script } = await api("POST", "/bootloader/generate", given);
    return [
      `Boot script generated for "${name}" (${type})`,
      `Organs: ${profile.organs.join(", ")}`,
      `Capabilities: ${profile.capabilities.join(", ")}`,
      `Pi-vers: ${profile.installPiVers ? "yes" : "no"}`,
      `Script: ${script.slice(0, 2)}`,
    ].join("\n");
  },
  reef_boot_profiles: async () => {
    const { profiles } = await api("GET", "/bootloader/profiles");
    return Object.entries(profiles)
      .map(([type, { description, organs, capabilities, installPiVers }]) =>
        [
          `${type}:`,
          `  ${description}`,
          `  Organs: ${organs.join(", ")}`,
          `  Capabilities: ${capabilities.join(", ") || "none"}`,
          `  Pi-vers: ${installPiVers ? "yes" : "no"}`,
        ].join("\n"),
      )
      .join("\n\n");
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [tool, parameters] = JSON.parse(line);
  let result;
  try {
    result = { text: await tools[tool](parameters), isError: false };
  } catch (error) {
    result = { text: `Error: ${error.message}`, isError: true };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
