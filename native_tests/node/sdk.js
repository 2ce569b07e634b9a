'use strict';
// RudderStack's Node SDK with its persistence queue: {"track":5,"start":0} or {"events":[["track",{…}]]} are queued and
// flushed. It works on the queue too, as the SDK always does; each event's callback is said.
const Analytics = require('@rudderstack/rudder-sdk-node');
const { obey, say, settings } = require('./program');

const client = new Analytics(settings.write_key, {
  dataPlaneUrl: settings.data_plane_url,
  logLevel: 'none',
  flushInterval: 50,
  ...settings.sdk,
});

client.createPersistenceQueue(
  {
    redisOpts: { path: settings.socket },
    queueName: settings.queue,
    prefix: settings.own_prefix || settings.prefix.replace(/[{}]/g, ''),
    isMultiProcessor: true,
    jobOpts: settings.job_options || {},
  },
  (error) => say(error ? { ready: false, error: String(error.message || error) } : { ready: true }),
);

function called(error) {
  say({ event: 'callback', args: [error ? String(error.message || error) : null] });
}

obey(async ({ track = 0, start = 0, events = [] }) => {
  const numbered = Array.from({ length: track }, (_, at) => [
    'track',
    { userId: `u${start + at}`, event: 'Item Viewed', properties: { n: start + at } },
  ]);
  for (const [method, message] of [...numbered, ...events]) {
    client[method](message, called);
  }
  return numbered.length + events.length;
});
