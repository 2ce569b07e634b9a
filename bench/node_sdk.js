'use strict';
// RudderStack's Node SDK: tracks as many events as the first argument says, with a Redis queue when a socket is given.
const Analytics = require('@rudderstack/rudder-sdk-node');

const [events, url, properties, redisSocket] = process.argv.slice(2);
const client = new Analytics('KEY', {
  dataPlaneUrl: url,
  logLevel: 'none',
  flushAt: 20,
  flushInterval: 200,
  maxInternalQueueSize: 20000,
});
const item = JSON.parse(properties);
let left = Number(events);

// It serializes its whole queue at every call, so a long queue would be the slowest way; its calls are not done at once.
function some() {
  for (let n = 0; n < 20 && left > 0 && client.queue.length < 200; n += 1, left -= 1) {
    client.track({ userId: '123456', event: 'Item Viewed', properties: item });
  }
  if (left > 0) {
    setImmediate(some);
  }
}

function begin() {
  const { user, system } = process.cpuUsage();
  console.log(JSON.stringify({ at_s: Number(process.hrtime.bigint()) / 1e9, cpu_s: (user + system) / 1e6 }));
  some();
}

if (redisSocket) {
  client.createPersistenceQueue({ redisOpts: { path: redisSocket } }, begin);
} else {
  begin();
}
