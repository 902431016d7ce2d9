// Started by its schedule; the trigger says for which moment.
exports.handler = async (payload, context) => {
  console.log(`started by ${context.trigger.type}, due at ${context.trigger.dueAt}`);
  return { startedBy: context.trigger.type, dueAt: context.trigger.dueAt };
};
