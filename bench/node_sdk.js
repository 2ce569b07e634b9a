'use strict';
// RudderStack's Node SDK: tracks as many events as the first argument says, with a Redis queue when a socket is given.
// One event at a time into its queue; what does not fit waits until the data plane has taken some.
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

function some() {
  while (left > 0 && client.queue.length < 15000) {
    client.track({ userId: '123456', event: 'Item Viewed', properties: item });
    left -= 1;
  }
  if (left > 0) {
    setTimeout(some, 1);
  }
}

if (redisSocket) {
  client.createPersistenceQueue({ redisOpts: { path: redisSocket } }, some);
} else {
  some();
}
