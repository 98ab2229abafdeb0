'use strict';
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const form = () => $('meta[name="form"]').content;
const number = v => v == null || !isFinite(v) ? '–' : Math.abs(v) >= 1e6 ? (v / 1e6).toPrecision(3) + ' M' : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString('en') : Math.abs(v) >= 0.001 || v === 0 ? String(+v.toPrecision(4)) : v.toExponential(2);

function make(tag, attributes = {}, ...children) {
  const svg = ['svg', 'path', 'line', 'circle', 'rect', 'text', 'title', 'g'].includes(tag);
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

async function api(path, options = {}) {
  const headers = { 'X-Espalier-Form': form(), ...(options.body ? { 'Content-Type': 'application/json' } : {}) };
  const answer = await fetch('/api/v1' + path, { ...options, headers });
  if (!answer.ok) {
    let sentence = `The studio answered ${answer.status}.`;
    try { sentence = (await answer.json()).error ?? sentence; } catch { /* no JSON: the number must do */ }
    throw new Error(sentence);
  }
  return answer;
}

function toast(text) {
  $('.toast')?.remove();
  const note = make('div', { class: 'toast', role: 'alert' }, text);
  document.body.append(note);
  setTimeout(() => note.remove(), 6000);
}

const announce = text => { $('#announce').textContent = text; };

// ── Colours ────────────────────────────────────────────────────────────────
for (const button of $$('[data-theme-toggle]')) {
  const names = { '': 'As the system', light: 'Light', dark: 'Dark' };
  const show = () => {
    const now = document.documentElement.dataset.theme ?? '';
    $('span', button).textContent = names[now];
    button.setAttribute('aria-label', `Colours: ${names[now].toLowerCase()}`);
  };
  button.addEventListener('click', () => {
    const order = ['', 'light', 'dark'], next = order[(order.indexOf(document.documentElement.dataset.theme ?? '') + 1) % 3];
    if (next) { document.documentElement.dataset.theme = next; localStorage.setItem('espalier-theme', next); }
    else { delete document.documentElement.dataset.theme; localStorage.removeItem('espalier-theme'); }
    show();
    document.dispatchEvent(new Event('colours'));
  });
  show();
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => document.dispatchEvent(new Event('colours')));

// ── Forms that search as one types: the server's page is asked, one part of it is swapped ──
const swap = async (address, part) => {
  const answer = await fetch(address, { headers: { Accept: 'text/html' } });
  if (!answer.ok) return false;
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  const now = $(part), then = $(part, page);
  if (now && then && now.innerHTML !== then.innerHTML) now.innerHTML = then.innerHTML;
  return true;
};
for (const search of $$('[data-live-form]')) {
  let waiting, turn = 0;
  const ask = () => {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const mine = ++turn, words = new URLSearchParams([...new FormData(search)].filter(([, v]) => v !== ''));
      const address = `${search.getAttribute('action')}?${words}`;
      if (mine === turn) { history.replaceState(null, '', address); await swap(address, search.dataset.liveForm); }
    }, 180);
  };
  search.addEventListener('input', ask);
  search.addEventListener('submit', event => { event.preventDefault(); ask(); });
}

// ── A weight from near ─────────────────────────────────────────────────────
for (const place of $$('[data-weights]')) {
  const key = place.dataset.weights, canvas = $('canvas', place), context = canvas.getContext('2d'), chooser = $('[data-tensor]', place);
  let picture, view, turn = 0, waiting;
  const colours = () => {
    const probe = make('i'), style = name => { probe.style.color = `var(${name})`; document.body.append(probe); const c = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number); probe.remove(); return c; };
    return [style('--heat0'), style('--heat1')];
  };
  const draw = () => {
    if (!picture) return;
    const bytes = Uint8Array.from(atob(picture.kept), c => c.charCodeAt(0)), [pale, strong] = colours();
    const image = new ImageData(picture.tilesAcross, picture.tilesDown);
    for (let i = 0; i < bytes.length; i++) {
      const share = bytes[i] / 255;
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = pale[c] + (strong[c] - pale[c]) * share;
      image.data[4 * i + 3] = 255;
    }
    const small = new OffscreenCanvas(picture.tilesAcross, picture.tilesDown);
    small.getContext('2d').putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height), [w, h] = [picture.width * scale, picture.height * scale];
    context.drawImage(small, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
    let kept = 0;
    for (const b of bytes) kept += b / 255;
    const words = `rows ${picture.row + 1} to ${picture.row + picture.height} of ${picture.rows}, columns ${picture.column + 1} to ${picture.column + picture.width} of ${picture.columns}; ${(100 * (1 - kept / bytes.length)).toFixed(1)} % of what is shown is zero`;
    $('[data-where]', place).textContent = words;
    canvas.setAttribute('aria-label', `Picture of the zeros of ${chooser.value}: ${words}`);
  };
  const load = async () => {
    const mine = ++turn, words = new URLSearchParams({ tensor: chooser.value, tiles: 360, ...(view ?? {}) });
    try {
      const got = await (await api(`/models/${key}/mask?${words}`)).json();
      if (mine !== turn) return;
      picture = got;
      view = { row: got.row, column: got.column, height: got.height, width: got.width };
      draw();
    } catch (fault) { toast(fault.message); }
  };
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(load, 60); };
  const clampView = () => {
    view.height = Math.round(Math.min(Math.max(view.height, 8), picture.rows)); view.width = Math.round(Math.min(Math.max(view.width, 8), picture.columns));
    view.row = Math.round(Math.min(Math.max(view.row, 0), picture.rows - view.height)); view.column = Math.round(Math.min(Math.max(view.column, 0), picture.columns - view.width));
  };
  const zoom = (factor, x = 0.5, y = 0.5) => {
    if (!view) return;
    const [r, c] = [view.row + view.height * y, view.column + view.width * x];
    view.height *= factor; view.width *= factor;
    view.row = r - view.height * y; view.column = c - view.width * x;
    clampView(); soon();
  };
  const move = (x, y) => { if (view) { view.column += x * view.width; view.row += y * view.height; clampView(); soon(); } };
  const whole = () => { view = null; load(); };
  canvas.addEventListener('wheel', event => { event.preventDefault(); const box = canvas.getBoundingClientRect(); zoom(event.deltaY > 0 ? 1.3 : 1 / 1.3, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height); }, { passive: false });
  let held = null;
  canvas.addEventListener('pointerdown', event => { held = { x: event.clientX, y: event.clientY }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener('pointermove', event => {
    if (!held) return;
    const box = canvas.getBoundingClientRect();
    move((held.x - event.clientX) / box.width, (held.y - event.clientY) / box.height);
    held = { x: event.clientX, y: event.clientY };
  });
  canvas.addEventListener('pointerup', () => { held = null; });
  canvas.addEventListener('keydown', event => {
    const keys = { '+': () => zoom(1 / 1.5), '=': () => zoom(1 / 1.5), '-': () => zoom(1.5), 0: whole, ArrowLeft: () => move(-0.2, 0), ArrowRight: () => move(0.2, 0), ArrowUp: () => move(0, -0.2), ArrowDown: () => move(0, 0.2) };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  for (const button of $$('[data-zoom]', place)) button.addEventListener('click', () => ({ in: () => zoom(1 / 1.5), out: () => zoom(1.5), all: whole })[button.dataset.zoom]());
  const spread = async () => {
    const got = await (await api(`/models/${key}/histogram?${new URLSearchParams({ tensor: chooser.value })}`)).json();
    const most = Math.max(...got.counts, 1), wide = 330, high = 150, bar = wide / got.counts.length;
    const svg = make('svg', { viewBox: `0 0 ${wide} ${high + 18}`, role: 'img', 'aria-label': `Histogram of the weights other than zero, from ${number(-got.top)} to ${number(got.top)}; standard deviation ${number(got.deviation)}` });
    got.counts.forEach((count, i) => {
      const h = count / most * high;
      svg.append(make('rect', { x: i * bar, y: high - h, width: Math.max(bar - 0.6, 0.6), height: h, class: 'bar leaf' }, make('title', {}, `${number(-got.top + (i + 0.5) * 2 * got.top / got.counts.length)}: ${count.toLocaleString('en')}`)));
    });
    svg.append(make('line', { x1: 0, y1: high, x2: wide, y2: high, class: 'base' }));
    [[0, number(-got.top), 'start'], [wide / 2, '0', 'middle'], [wide, number(got.top), 'end']].forEach(([x, text, anchor]) => svg.append(make('text', { x, y: high + 14, 'text-anchor': anchor, class: 'tick' }, text)));
    $('[data-histogram]', place).replaceChildren(svg);
    $('[data-spread]', place).textContent = `mean ${number(got.mean)}, standard deviation ${number(got.deviation)}, ${got.zeros.toLocaleString('en')} zeros`;
  };
  chooser?.addEventListener('change', () => { view = null; load(); spread().catch(fault => toast(fault.message)); });
  document.addEventListener('colours', draw);
  if (chooser?.value) { load(); spread().catch(fault => toast(fault.message)); }
}

// ── Try it ─────────────────────────────────────────────────────────────────
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) {
      const data = rest.slice(0, end).split('\n').filter(l => l.startsWith('data:')).map(l => l.slice(5).trimStart()).join('\n');
      if (data) yield JSON.parse(data);
    }
  }
}
for (const place of $$('[data-generate]')) {
  const voices = $('[data-voices]', place), stop = $('[data-stop]', place), write = $('button.primary', place);
  place.addEventListener('submit', async event => {
    event.preventDefault();
    const words = Object.fromEntries(new FormData(place)), abort = new AbortController();
    const request = { prompt: words.prompt, maxTokens: +words.maxTokens, temperature: +words.temperature, topK: words.topK ? +words.topK : null, seed: +words.seed };
    const chosen = $('[name="beside"]', place), models = [[voices.dataset.voices, voices.dataset.name], ...(words.beside ? [[words.beside, chosen.selectedOptions[0].textContent.trim()]] : [])];
    write.disabled = true; stop.hidden = false;
    stop.onclick = () => abort.abort();
    voices.replaceChildren();
    await Promise.all(models.map(async ([key, name]) => {
      const speed = make('span', { class: 'note' }, '…'), text = make('blockquote', { class: 'writing', 'aria-label': `Text by ${name}` }, make('span', { class: 'given' }, request.prompt));
      voices.append(make('div', {}, make('h3', {}, name, speed), text));
      try {
        for await (const piece of events(await api(`/models/${key}/text`, { method: 'POST', body: JSON.stringify(request), signal: abort.signal }))) {
          text.append(piece.text);
          speed.textContent = piece.done ? (piece.error ?? `${piece.tokens} tokens, ${number(piece.tokensPerSecond)} a second`) : `${piece.tokens} tokens`;
        }
        announce(`${name} has written ${speed.textContent}`);
      } catch (fault) { speed.textContent = fault.name === 'AbortError' ? 'stopped' : fault.message; }
      text.classList.remove('writing');
    }));
    write.disabled = false; stop.hidden = true;
  });
}
