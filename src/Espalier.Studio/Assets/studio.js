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

// On a narrow screen the places stand in a row that is wider than the screen.
$('.rail a.active')?.scrollIntoView({ inline: 'center', block: 'nearest' });

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

// ── Lists that go on by themselves ─────────────────────────────────────────
for (const part of $$('[data-refresh]')) {
  const selector = `#${part.id}`;
  const again = async () => {
    const now = $(selector);
    // Whoever is choosing or reading with the keyboard is not disturbed.
    if (!document.hidden && now && !now.contains(document.activeElement) && !$('input:checked', now)) {
      try { await swap(location.href, selector); } catch { /* the studio is away for a moment */ }
    }
    setTimeout(again, +part.dataset.refresh * 1000);
  };
  setTimeout(again, +part.dataset.refresh * 1000);
}

// ── A run as it goes ───────────────────────────────────────────────────────
function chart(name) {
  const wide = 480, high = 200, left = 46, bottom = 22, top = 10, right = 8;
  const now = make('span', { class: 'now' }), svg = make('svg', { viewBox: `0 0 ${wide} ${high}`, role: 'img', tabindex: '0' });
  const element = make('figure', { class: 'chart' }, make('figcaption', {}, make('h3', {}, name.replaceAll('_', ' ')), now), svg);
  let points = [];
  const draw = () => {
    const finite = points.filter(p => p.value != null && isFinite(p.value));
    if (!finite.length) return;
    let [x0, x1] = [finite[0].step, finite[0].step], [y0, y1] = [Infinity, -Infinity];
    for (const p of finite) { x0 = Math.min(x0, p.step); x1 = Math.max(x1, p.step); y0 = Math.min(y0, p.value); y1 = Math.max(y1, p.value); }
    if (y0 === y1) { const half = Math.abs(y0) * 0.1 || 1; y0 -= half; y1 += half; }
    const x = v => left + (wide - left - right) * (x1 === x0 ? 0.5 : (v - x0) / (x1 - x0)), y = v => top + (high - top - bottom) * (1 - (v - y0) / (y1 - y0));
    svg.replaceChildren();
    for (let i = 0; i <= 3; i++) {
      const v = y0 + (y1 - y0) * i / 3;
      svg.append(make('line', { x1: left, x2: wide - right, y1: y(v), y2: y(v), class: i ? 'grid' : 'base' }), make('text', { x: left - 7, y: y(v) + 4, 'text-anchor': 'end', class: 'tick' }, number(+v.toPrecision(3))));
    }
    for (const [v, anchor] of x1 === x0 ? [[x0, 'middle']] : [[x0, 'start'], [x1, 'end']]) svg.append(make('text', { x: x(v), y: high - 5, 'text-anchor': anchor, class: 'tick' }, number(v)));
    const path = list => list.map((p, i) => `${i ? 'L' : 'M'}${x(p.step).toFixed(1)} ${y(p.value).toFixed(1)}`).join('');
    const g = make('g', { class: 'leaf' });
    if (finite.length > 40) {
      let mean = finite[0].value;
      const keep = Math.min(0.95, 1 - 8 / finite.length), smooth = finite.map(p => ({ step: p.step, value: mean = mean * keep + p.value * (1 - keep) }));
      g.append(make('path', { d: path(finite), class: 'line faint' }), make('path', { d: path(smooth), class: 'line' }));
    } else g.append(make('path', { d: path(finite), class: 'line' }), ...(finite.length <= 25 ? finite : []).map(p => make('circle', { cx: x(p.step), cy: y(p.value), r: 3, class: 'dot shown' })));
    svg.append(g);
    const last = finite[finite.length - 1];
    now.textContent = number(last.value);
    svg.setAttribute('aria-label', `${name}: ${number(finite[0].value)} at ${finite[0].step}, now ${number(last.value)} at ${last.step}`);
    svg.onpointermove = event => {
      const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * wide;
      const near = finite.reduce((a, b) => Math.abs(x(b.step) - at) < Math.abs(x(a.step) - at) ? b : a);
      $$('.cursor', svg).forEach(e => e.remove());
      svg.append(make('line', { x1: x(near.step), x2: x(near.step), y1: top, y2: high - bottom, class: 'cursor' }));
      now.textContent = `${number(near.value)} at ${near.step}`;
    };
    svg.onpointerleave = () => { $$('.cursor', svg).forEach(e => e.remove()); now.textContent = number(last.value); };
  };
  return { element, draw, add(p) { points.push(p); if (points.length > 3000) points = points.filter((_, i) => i % 2); }, count: () => points.length };
}
for (const place of $$('[data-run]')) {
  const id = place.dataset.run, charts = new Map(), holder = $('[data-charts]', place), log = $('[data-log]', place), first = place.dataset.state;
  const source = new EventSource(`/api/v1/runs/${id}/events`);
  const on = (name, act) => source.addEventListener(name, event => act(JSON.parse(event.data)));
  on('reset', () => { charts.clear(); holder.replaceChildren(); log.replaceChildren(); });
  on('run', state => {
    const bar = $('[data-bar]', place);
    if (bar) {
      const share = Math.round((state.progress ?? 0) * 100);
      bar.style.setProperty('--done', `${share}%`);
      bar.setAttribute('aria-valuenow', share);
      $('[data-doing]', place).textContent = state.doing || (state.state === 'queued' ? 'waits for its turn' : 'at work');
      $('[data-percent]', place).textContent = state.progress == null ? '' : `${share} %`;
    }
    // What is new with another state (buttons, figures, files) comes with the page.
    if (state.state !== first) { source.close(); announce(`The run is ${state.state}.`); setTimeout(() => location.reload(), 300); }
  });
  on('metrics', points => {
    const changed = new Set();
    for (const point of points) {
      if (!charts.has(point.metric)) charts.set(point.metric, chart(point.metric));
      const one = charts.get(point.metric);
      one.add(point);
      changed.add(one);
    }
    for (const one of changed) if (one.count() > 1) { if (!one.element.isConnected) { holder.append(one.element); $('[data-curves]', place).hidden = false; } one.draw(); }
  });
  on('log', lines => {
    const below = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
    for (const line of lines) log.append(make('div', { class: line.level }, line.text));
    while (log.childElementCount > 1000) log.firstElementChild.remove();
    if (below) log.scrollTop = log.scrollHeight;
  });
  on('end', () => source.close());
  addEventListener('pagehide', () => source.close());
  place.addEventListener('click', async event => {
    const button = event.target.closest('[data-act],[data-untag]');
    if (!button) return;
    try {
      if (button.dataset.untag) { await api(`/runs/${id}/tags`, { method: 'POST', body: JSON.stringify({ remove: [button.dataset.untag] }) }); button.parentElement.remove(); return; }
      if (button.dataset.ask && !confirm(button.dataset.ask)) return;
      button.disabled = true;
      const act = button.dataset.act, answer = await api(act === 'delete' ? `/runs/${id}` : `/runs/${id}/${act}`, { method: act === 'delete' ? 'DELETE' : 'POST' });
      if (act === 'resume') location.href = `/runs/${(await answer.json()).id}`;
      else if (act === 'delete') location.href = '/';
      else toast(button.dataset.done);
    } catch (fault) { button.disabled = false; toast(fault.message); }
  });
  $('[data-tagger]', place)?.addEventListener('submit', async event => {
    event.preventDefault();
    const tag = event.target.elements.tag.value.trim();
    if (!tag) return;
    try { await api(`/runs/${id}/tags`, { method: 'POST', body: JSON.stringify({ add: [tag] }) }); location.reload(); } catch (fault) { toast(fault.message); }
  });
}

// ── A new run ──────────────────────────────────────────────────────────────
// A form that is checked as one types: what it says is asked of the server, shown, and started as it stands.
function checked(form, { draft, check, start, show }) {
  const verdict = $('[data-verdict]', form), button = $('[data-start]', form);
  let waiting, turn = 0;
  const bad = sentence => { verdict.removeAttribute('aria-busy'); verdict.textContent = sentence; verdict.classList.add('bad'); };
  const ask = () => {
    clearTimeout(waiting);
    // What stands there is of the form as it was.
    verdict.setAttribute('aria-busy', 'true');
    waiting = setTimeout(async () => {
      const mine = ++turn;
      try {
        const said = await (await api(check, { method: 'POST', body: JSON.stringify(draft()) })).json();
        if (mine !== turn) return;
        show(said);
        verdict.removeAttribute('aria-busy');
        verdict.textContent = said.ok ? 'This can be started.' : said.error;
        verdict.classList.toggle('bad', !said.ok);
        button.disabled = !said.ok;
        for (const field of $$('[data-word],[data-field]', form)) said.word && said.word === (field.dataset.field ?? field.dataset.word) ? field.setAttribute('aria-invalid', 'true') : field.removeAttribute('aria-invalid');
      } catch (fault) { bad(fault.message); button.disabled = true; }
    }, 200);
  };
  form.addEventListener('input', event => {
    // "one on the hub…" brings the field for its id.
    const elsewhere = event.target.selectedOptions?.[0]?.dataset.elsewhere != null, id = event.target.tagName === 'SELECT' ? event.target.nextElementSibling : null;
    if (id?.tagName === 'INPUT') { id.hidden = !elsewhere; if (elsewhere) id.focus(); }
    ask();
  });
  form.addEventListener('submit', async event => {
    event.preventDefault();
    button.disabled = true;
    try { location.href = `/runs/${(await (await api(start, { method: 'POST', body: JSON.stringify(draft()) })).json()).id}`; }
    catch (fault) { bad(fault.message); button.disabled = false; }
  });
  return ask;
}
const cloned = JSON.parse($('#cloned')?.textContent || '{}'), parts = new Map();
const tagsOf = form => form.elements.tags.value.split(',').map(t => t.trim()).filter(Boolean);
const fieldOf = (option, word) => {
  const id = `o-${word.replace(/[^a-z0-9]+/gi, '-')}`, given = cloned[word] ?? option.default ?? '', name = option.name.replaceAll('_', ' ');
  const hint = (option.hint ?? '').split('. ')[0] + (option.kind === 'choices' ? ` (${option.choices.join(', ')})` : '');
  const common = { id, 'data-option': word, 'data-default': option.default ?? '', 'aria-describedby': hint.trim() ? `${id}-hint` : null };
  const said = hint.trim() ? [make('span', { class: 'hint', id: `${id}-hint` }, hint)] : [];
  if (option.kind === 'switch') {
    const box = make('input', { type: 'checkbox', ...common });
    box.checked = given === 'true';
    return make('div', { class: 'field alone' }, make('label', { class: 'check' }, box, name), ...said);
  }
  const input = option.kind === 'choice' ? make('select', common, ...option.choices.map(c => make('option', { value: c }, c)))
    : make('input', { ...common, inputmode: option.kind === 'text' || option.kind === 'choices' ? null : 'decimal', spellcheck: 'false', autocomplete: 'off' });
  input.value = given;
  return make('div', { class: 'field' }, make('label', { for: id }, name), input, ...said);
};
// The options of the system that is chosen, from its own record; `name` says what the field of one is called.
async function optionsOf(form, select, name) {
  const part = select.dataset.part, place = $(`[data-options="${select.dataset.word}"]`, form);
  if (!parts.has(part)) parts.set(part, await (await api(`/parts/${part}`)).json());
  const chosen = parts.get(part).find(p => p.slug === select.value);
  $('[data-summary]', select.parentElement).textContent = chosen?.summary ?? '';
  place.replaceChildren();
  if (!chosen?.fields.length) return;
  const more = make('details', { class: 'more' }, make('summary', {}, `Options of ${chosen.slug}`), make('div', { class: 'fields' }, ...chosen.fields.map(f => fieldOf(f, name(f)))));
  more.open = chosen.fields.some(f => cloned[name(f)] != null);
  place.append(more);
}
const changed = field => {
  if (field.hidden) return null;
  const value = field.type === 'checkbox' ? (field.checked ? 'true' : 'false') : field.value.trim();
  return value !== '' && value !== (field.dataset.default ?? (field.type === 'checkbox' ? 'false' : '')) ? value : null;
};

for (const builder of $$('[data-builder]')) {
  const yaml = $('[data-yaml] code', builder);
  const ask = checked(builder, {
    check: '/plans/check', start: '/runs', show: said => { if (said.yaml) yaml.textContent = said.yaml; },
    draft: () => {
      const words = {}, f = builder.elements;
      for (const field of $$('[data-word],[data-option]', builder)) { const value = changed(field); if (value != null) words[field.dataset.option ?? field.dataset.word] = value; }
      return { model: f.hub.hidden ? f.model.value : f.hub.value.trim(), calibration: f.calibration.value || null, evaluation: f.evaluation.value || null, title: f.title.value, prompts: [f.prompt.value].filter(Boolean), tags: tagsOf(builder), words };
    },
  });
  for (const select of $$('[data-part]', builder)) {
    const prefix = select.dataset.word.replace(/\.method$/, ''), options = () => optionsOf(builder, select, option => `${prefix}.${option.name}`);
    select.addEventListener('change', () => options().then(ask).catch(fault => toast(fault.message)));
    options().then(ask).catch(fault => toast(fault.message));
  }
  ask();
}
for (const form of $$('[data-command]')) {
  const line = $('[data-line] code', form);
  const ask = checked(form, {
    check: '/commands/check', start: '/commands',
    show: said => { line.textContent = (said.line ?? `espalier ${form.dataset.command} …`).replace(/ (?=--?[a-z])/g, ' \\\n  '); },
    draft: () => {
      const values = {};
      for (const field of $$('[data-field]', form)) {
        const name = field.dataset.field, many = field.dataset.many != null;
        const given = field.dataset.lines != null ? field.value.split('\n').map(v => v.trim()).filter(Boolean)
          : many && field.type === 'checkbox' ? (field.checked ? [field.value] : []) : [changed(field)].filter(v => v != null);
        if (given.length) values[name] = many ? [...(values[name] ?? []), ...given] : given;
      }
      for (const field of $$('[data-option]', form)) {
        const value = changed(field), [set, name] = field.dataset.option.split(/:(.*)/);
        if (value != null) (values[set] ??= []).push(`${name}=${value}`);
      }
      return { command: form.dataset.command, values, title: form.elements.title.value, tags: tagsOf(form) };
    },
  });
  for (const select of $$('[data-system]', form)) {
    const options = () => optionsOf(form, select, option => `${select.dataset.set}:${option.name}`);
    select.addEventListener('change', () => options().then(ask).catch(fault => toast(fault.message)));
    options().then(ask).catch(fault => toast(fault.message));
  }
  ask();
}

// ── The digest ─────────────────────────────────────────────────────────────
for (const digest of $$('[data-digest]')) digest.addEventListener('submit', async event => {
  event.preventDefault();
  const said = $('[data-said]', digest), button = $('button', digest);
  button.disabled = true;
  try {
    await api('/digest', { method: 'POST', body: JSON.stringify({ address: digest.elements.address.value, pace: digest.elements.pace.value }) });
    said.textContent = 'Look into your letter box: a mail asks you to confirm.';
    said.classList.remove('bad');
  } catch (fault) { said.textContent = fault.message; said.classList.add('bad'); }
  said.hidden = false; button.disabled = false;
});
