// The smallest useful script: greets whoever the payload names.
exports.handler = async (payload, context) => {
  const name = payload.name || 'World';
  console.log(`greeting ${name}`);
  return {
    message: `Hello, ${name}!`,
    runId: context.runId,
    timestamp: new Date().toISOString(),
  };
};
