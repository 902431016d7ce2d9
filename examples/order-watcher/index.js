// Started by every event order.* with a total above 100; answers with an event of its own.
exports.handler = async (event, context) => {
  console.log(`${event.name} from ${event.source}: ${event.data.total}`);
  const { event_id } = await context.publish('review.requested', { order: event.data.id, total: event.data.total });
  return { order: event.data.id, published: event_id };
};
