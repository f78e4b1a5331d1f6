// Loaded before the agent's own code if its version is older than 0.84. Those versions repeat the
// whole unfinished message in every streaming event, twice, so that the output grows with the square
// of the answer, and a long answer ends in ENOBUFS. Each RPC record passes through JSON.stringify
// with no further argument: that call is wrapped to omit what earlier records contained.
const stringify = JSON.stringify;

const slimmed = {
  message_update({ type, assistantMessageEvent }) {
    const { partial, ...event } = assistantMessageEvent ?? {};
    return { type, assistantMessageEvent: event };
  },
  turn_end({ type, message }) {
    return { type, message: { role: message?.role, stopReason: message?.stopReason, content: [] } };
  },
  agent_end({ messages, ...rest }) {
    const last = [...(messages ?? [])].reverse().find((each) => each.role === "assistant");
    if (!last) return { ...rest, messages: [] };
    const { role, stopReason, errorMessage } = last;
    return { ...rest, messages: [{ role, stopReason, errorMessage, content: [] }] };
  },
};

JSON.stringify = (value, ...options) => {
  const slim = options.length === 0 && Object.hasOwn(slimmed, value?.type) && slimmed[value.type];
  return stringify(slim ? slim(value) : value, ...options);
};
