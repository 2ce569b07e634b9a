// The dialog with one failed job.

import { get } from './api.js';
import { byId, count, counted, moment, show } from './text.js';

export async function openJob(id, name) {
  const job = await get(`api/failed/${encodeURIComponent(id)}`);
  const types = Object.entries(job.types).map(([type, number]) => `${count(number)} ${type}`);
  show({
    'job-title': `The failed ${name}`,
    'job-failed': moment(job.failed_at_ms),
    'job-reason': job.reason || 'no reason is written down',
    'job-types': [counted(job.events, 'event'), types.join(', ')].filter(Boolean).join(': '),
    'job-messages': job.messages ? JSON.stringify(job.messages, null, 2) : '',
    'job-hint': job.messages ? '' : 'What is in the events is not shown: the server runs without --show-events.',
  });
  byId('job-messages').hidden = !job.messages;
  byId('job').showModal();
}
