import { post, sentence } from './api.js';
import { byId } from './text.js';

byId('login').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { token } = event.target.elements;
  const button = event.target.querySelector('button');
  button.disabled = true;
  byId('said').textContent = '';
  try {
    await post('login', { token: token.value.trim() });
    location.assign('./');
  } catch (error) {
    byId('said').textContent = sentence(error);
    button.disabled = false;
    token.select();
  }
});
