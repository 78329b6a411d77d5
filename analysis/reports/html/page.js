// Draws the charts and tables of the report from the results embedded in the page
// (docs/results-format.md).
// Text from the results enters the page through textContent only.
(function () {
  'use strict';

  const data = JSON.parse(document.getElementById('results').textContent);
  const list = (value) => (Array.isArray(value) ? value : []);
  const models = list(data.models);
  const systems = list(data.systems);
  const curves = list(data.curves);
  const points = list(data.points);
  const DASH = '–';
  const INK = '#1a1a1a';
  const SOFT = '#555';
  const GRID = '#e4e4e4';

  // ---- small tools -------------------------------------------------------------------------

  const byId = (id) => document.getElementById(id);

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === 'text') node.textContent = value;
      else if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  const finite = (x) => typeof x === 'number' && Number.isFinite(x);
  const unique = (values) => [...new Set(values)];
  const ascending = (a, b) => a - b;

  // An interval, a plain number, or nothing.
  function interval(x) {
    if (finite(x)) return { low: null, value: x, high: null };
    if (!x || !finite(x.value)) return null;
    return { low: finite(x.low) ? x.low : null, value: x.value, high: finite(x.high) ? x.high : null };
  }

  // ---- numbers for people ------------------------------------------------------------------

  function sig3(x) {
    if (!finite(x)) return DASH;
    if (x === 0) return '0';
    const size = Math.abs(x);
    if (size >= 999.5) return Number(x.toPrecision(3)).toLocaleString('en-US', { maximumFractionDigits: 0 });
    if (size < 1e-4) return x.toExponential(2);
    return x.toPrecision(3);
  }
  const plain = (x) => (finite(x) ? Number(x.toPrecision(3)).toLocaleString('en-US', { maximumFractionDigits: 12 }) : DASH);
  const dollars = (x) => (finite(x) ? '$' + sig3(x) : DASH);
  const dollarTick = (x) => '$' + plain(x);

  // 128K is 131,072 and 1M is 1,048,576; other lengths are written out.
  function contextName(tokens) {
    if (!finite(tokens)) return DASH;
    if (tokens > 0 && tokens % 1048576 === 0) return tokens / 1048576 + 'M';
    if (tokens > 0 && tokens % 1024 === 0) return tokens / 1024 + 'K';
    return tokens.toLocaleString('en-US');
  }

  const PREFIXES = [[1e18, 'E'], [1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k'], [1, '']];
  const prefixFor = (x) => PREFIXES.find(([size]) => Math.abs(x) >= size) || PREFIXES[PREFIXES.length - 1];
  function si(x, unit) {
    if (!finite(x)) return DASH;
    const [size, prefix] = prefixFor(x);
    return sig3(x / size) + ' ' + prefix + unit;
  }
  const siTick = (x) => { const [size, prefix] = prefixFor(x); return plain(x / size) + prefix; };

  function rangeText(x, format) {
    const i = interval(x);
    return i && i.low !== null && i.high !== null ? format(i.low) + ' to ' + format(i.high) : '';
  }

  // ---- series styles -----------------------------------------------------------------------
  // Okabe-Ito colours. A vendor is told by cool or warm colour, by filled or hollow symbols and by its
  // family of dashes; a system by its own symbol and dash within that. Five dashes against four colours:
  // the pair stays distinct when a colour comes round again.

  const OKABE_ITO = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#E69F00', '#56B4E9'];
  const VENDOR_COLOURS = [
    ['#0072B2', '#009E73', '#56B4E9', '#000000'],
    ['#D55E00', '#CC79A7', '#E69F00', '#000000'],
  ];
  const VENDOR_DASHES = [
    [[], [16, 4], [24, 4, 4, 4], [10, 3], [16, 4, 4, 4, 4, 4]],
    [[5, 4], [2, 3], [8, 3, 2, 3], [4, 2], [1, 2]],
  ];
  const MODEL_DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [16, 4], [5, 2]];
  const SYMBOLS = [
    'M10 0A10 10 0 1 1 9.99 0Z',
    'M1 1H19V19H1Z',
    'M10 0L20 18H0Z',
    'M10 -1L21 10L10 21L-1 10Z',
    'M0 2H20L10 20Z',
    'M6.5 0H13.5V6.5H20V13.5H13.5V20H6.5V13.5H0V6.5H6.5Z',
    'M5 1H15L20 10L15 19H5L0 10Z',
    'M10 0L12.9 6.9L20 7.6L14.6 12.3L16.2 19.5L10 15.7L3.8 19.5L5.4 12.3L0 7.6L7.1 6.9Z',
  ];
  const GLYPHS = ['●', '■', '▲', '◆', '▼', '✚', '⬢', '★'];   // the same shapes in text

  const modelStyles = new Map(models.map((m, i) => [m.name, {
    colour: OKABE_ITO[i % OKABE_ITO.length],
    dash: MODEL_DASHES[i % MODEL_DASHES.length],
    symbol: SYMBOLS[i % SYMBOLS.length],
    glyph: GLYPHS[i % GLYPHS.length],
    hollow: false,
  }]));

  const vendors = unique(systems.map((s) => s.vendor));
  const systemStyles = new Map();
  systems.forEach((system, i) => {
    const vendor = vendors.indexOf(system.vendor);
    const rank = systems.filter((s, j) => s.vendor === system.vendor && j < i).length;
    const colours = VENDOR_COLOURS[vendor] || OKABE_ITO.slice().reverse();
    const dashes = VENDOR_DASHES[vendor] || MODEL_DASHES;
    systemStyles.set(system.name, {
      colour: colours[rank % colours.length],
      dash: dashes[rank % dashes.length],
      symbol: SYMBOLS[i % SYMBOLS.length],
      hollow: vendor % 2 === 1,
    });
  });
  const FALLBACK_STYLE = { colour: '#000000', dash: [], symbol: SYMBOLS[0], glyph: GLYPHS[0], hollow: false };
  const modelStyle = (name) => modelStyles.get(name) || FALLBACK_STYLE;
  const systemStyle = (name) => systemStyles.get(name) || FALLBACK_STYLE;
  const titleIn = (items) => (name) => {
    const found = items.find((item) => item.name === name);
    return String((found && found.title) || name || DASH);
  };
  const modelTitle = titleIn(models);
  const systemTitle = titleIn(systems);

  const lineOf = (style, width) => ({
    color: style.colour, width: width || 2, type: style.dash.length ? style.dash : 'solid', cap: 'butt',
  });
  const symbolOf = (style) => ({
    color: style.hollow ? '#fff' : style.colour, borderColor: style.colour, borderWidth: style.hollow ? 2 : 1, opacity: 1,
  });

  const SVG = 'http://www.w3.org/2000/svg';
  function swatch(style) {
    const svg = document.createElementNS(SVG, 'svg');
    const shape = (tag, attributes) => {
      const node = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      svg.append(node);
    };
    for (const [name, value] of [['width', 44], ['height', 14], ['viewBox', '0 0 44 14'], ['aria-hidden', 'true']]) {
      svg.setAttribute(name, value);
    }
    shape('line', { x1: 0, y1: 7, x2: 44, y2: 7, stroke: style.colour, 'stroke-width': 2, 'stroke-dasharray': style.dash.join(' ') });
    shape('path', {
      d: style.symbol, transform: 'translate(17 2) scale(0.5)', stroke: style.colour,
      'stroke-width': style.hollow ? 4 : 2, fill: style.hollow ? '#fff' : style.colour,
    });
    return svg;
  }

  // ---- which points can be drawn -----------------------------------------------------------

  const okPoints = points.filter((p) => p.status === 'ok');
  const contexts = unique(list(data.contexts).concat(points.map((p) => p.context)).filter(finite)).sort(ascending);
  const servedModels = models.filter((m) => okPoints.some((p) => p.model === m.name));
  const STATUS_WORDS = {
    ok: '✓ served', misses_tpot: '▲ misses the latency target', does_not_fit: '✕ does not fit', unsupported: '■ not supported',
  };
  const statusWords = (status) => STATUS_WORDS[status] || String(status || DASH);

  const state = {
    log: false,
    model: servedModels.length ? servedModels[0].name : null,
    context: contexts.length ? contexts[Math.floor((contexts.length - 1) / 2)] : null,
    direction: 'output',
    hiddenModels: new Set(),
    hiddenSystems: new Set(),
  };
  const shownSystems = () => systems.filter((s) => !state.hiddenSystems.has(s.name));
  const modelPoints = (system) => okPoints
    .filter((p) => p.model === state.model && p.system === system.name && finite(p.context))
    .sort((a, b) => a.context - b.context);
  const casePoint = (system) => modelPoints(system).find((p) => p.context === state.context);

  // ---- chart frame -------------------------------------------------------------------------

  const charts = new Map();   // element id -> ECharts instance
  const drawn = new Map();    // element id -> whether real series shapes are in its svg

  // A chart counts as drawn when each series that has data shows shapes in its own colour.
  function hasSeriesShapes(host, colours) {
    const svg = host.querySelector('svg');
    if (!svg || colours.length === 0) return false;
    const painted = new Set();
    for (const shape of svg.querySelectorAll('path, circle, polyline, polygon, rect, line')) {
      for (const name of ['stroke', 'fill']) {
        const value = shape.getAttribute(name);
        if (value) painted.add(value.toLowerCase());
      }
    }
    const rgb = (hex) => 'rgb(' + [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(',') + ')';
    return colours.every((c) => painted.has(c.toLowerCase()) || painted.has(rgb(c)));
  }

  function narrow(host) { return host.clientWidth < 480; }

  // `build(host)` returns {option, colours, label} or {message}.
  function draw(id, build) {
    const host = byId(id);
    let chart = charts.get(id);
    try {
      const built = build(host);
      const empty = built.message !== undefined;
      if (empty) {
        if (chart) { chart.dispose(); charts.delete(id); }
        host.classList.add('message');
        host.textContent = built.message;
        host.removeAttribute('role');
        host.removeAttribute('aria-label');
        host.style.height = '';
        drawn.set(id, false);
        return;
      }
      host.classList.remove('message');
      host.style.height = built.height ? built.height + 'px' : '';
      if (!chart) {
        host.textContent = '';
        chart = echarts.init(host, null, { renderer: 'svg' });
        charts.set(id, chart);
      } else {
        chart.resize();
      }
      chart.setOption(built.option, { notMerge: true });
      host.setAttribute('role', 'img');
      host.setAttribute('aria-label', built.label);
      const svg = host.querySelector('svg');
      // Lets the print layout scale the drawing.
      if (svg) svg.setAttribute('viewBox', '0 0 ' + host.clientWidth + ' ' + host.clientHeight);
      drawn.set(id, hasSeriesShapes(host, built.colours));
    } catch (error) {
      drawn.set(id, false);
      window.reportError(error);
    }
  }

  function tip(title, rows) {
    const body = el('tbody');
    for (const [name, value] of rows) {
      if (value) body.append(el('tr', {}, el('td', { text: name }), el('td', { text: value })));
    }
    return el('div', { class: 'tip' }, el('b', { text: title }), el('table', {}, body));
  }

  const frame = (extra) => Object.assign({
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: INK, fontSize: 12 },
    tooltip: { trigger: 'item', confine: true, borderColor: '#999', padding: [6, 10], transitionDuration: 0 },
  }, extra);

  function axis(name, extra) {
    return Object.assign({
      name,
      nameTextStyle: { color: INK, fontSize: 12 },
      axisLine: { show: true, lineStyle: { color: '#767676' } },
      axisTick: { show: true, lineStyle: { color: '#767676' } },
      axisLabel: { color: INK, fontSize: 12, hideOverlap: true },
      splitLine: { show: true, lineStyle: { color: GRID } },
      minorTick: { show: false },
    }, extra);
  }
  const xName = { nameLocation: 'middle', nameGap: 30 };
  const yName = { nameLocation: 'end', nameGap: 12, nameTextStyle: { color: INK, fontSize: 12, align: 'left', padding: [0, 0, 0, -46] } };

  // Bounds on 1, 2, 5 steps around the values, and ticks between them that suit the span.
  function logScale(values, room) {
    const low = Math.min(...values) / (room || 1);
    const high = Math.max(...values) * (room || 1);
    const steps = [];
    for (let decade = Math.floor(Math.log10(low)) - 1; decade <= Math.log10(high) + 1; ++decade) {
      for (const digit of [1, 2, 5]) steps.push(Number(digit + 'e' + decade));
    }
    const min = Math.max(...steps.filter((s) => s <= low * 1.0001));
    const max = Math.min(...steps.filter((s) => s >= high * 0.9999 && s > min));
    const decades = Math.log10(max / min);
    const digits = decades > 4.5 ? [1] : decades > 2.6 ? [1, 3] : [1, 2, 5];
    const ticks = [];
    for (let decade = Math.floor(Math.log10(min)); decade <= Math.log10(max) + 1e-9; ++decade) {
      for (const digit of digits) {
        const tick = Number(digit + 'e' + decade);
        if (tick >= min * 0.9999 && tick <= max * 1.0001) ticks.push(tick);
      }
    }
    return { min, max, ticks };
  }

  function withTicks(base, ticks, format, extra) {
    return Object.assign(base, extra, {
      axisLabel: Object.assign({}, base.axisLabel, { customValues: ticks, formatter: format }),
      axisTick: Object.assign({}, base.axisTick, { customValues: ticks }),
      splitLine: Object.assign({}, base.splitLine, { customValues: ticks }),
    });
  }

  function logAxis(name, values, format, extra, room) {
    const scale = logScale(values, room);
    return withTicks(axis(name, extra), scale.ticks, format, { type: 'log', logBase: 10, min: scale.min, max: scale.max });
  }

  // Context lengths on powers of two, with half an octave of room for the sideways spread of points.
  function contextLogAxis(values) {
    const ticks = [];
    const low = Math.min(...values);
    const high = Math.max(...values);
    for (let power = Math.floor(Math.log2(low)); power <= Math.ceil(Math.log2(high)); ++power) {
      const tick = Math.pow(2, power);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
    return withTicks(axis('Context length (tokens)', xName), ticks, contextName, { type: 'log', logBase: 2, min: low / 1.3, max: high * 1.3 });
  }

  // From zero, with at most `most` ticks at binary lengths.
  function contextLinearAxis(high, most) {
    const step = Math.pow(2, Math.max(0, Math.ceil(Math.log2(high / most) - 0.01)));
    const ticks = [];
    for (let x = 0; x <= high * 1.0001; x += step) ticks.push(x);
    return withTicks(axis('Context length (tokens)', xName), ticks, contextName, { type: 'value', min: 0, max: high });
  }

  // ---- (a), (b): the two curves ------------------------------------------------------------

  const MILLION = 1000000;

  // Where the models are compared: 1,000,000 tokens if all have it, else the last length all have.
  function referenceContext(field) {
    const byModel = unique(curves.map((c) => c.model)).map((name) =>
      new Set(curves.filter((c) => c.model === name && finite(c[field])).map((c) => c.context)));
    if (byModel.length === 0) return null;
    const common = [...byModel[0]].filter((x) => finite(x) && byModel.every((set) => set.has(x)));
    if (common.includes(MILLION)) return MILLION;
    return common.length ? Math.max(...common) : null;
  }

  // A symbol about every eighth of the axis, and always at the compared context.
  function markedContexts(xs, reference) {
    const at = (x) => (state.log ? Math.log(x) : x);
    const step = (at(xs[xs.length - 1]) - at(xs[0])) / 8;
    const marked = new Set(reference === null ? [] : [reference]);
    let last = -Infinity;
    for (const x of xs) {
      const clear = reference === null || Math.abs(at(x) - at(reference)) > step * 0.6;
      if (at(x) - last >= step * 0.999 && clear) { marked.add(x); last = at(x); }
    }
    return marked;
  }

  const times = (x) => (x >= 99.5 ? x.toFixed(0) : x.toFixed(1)) + 'x';

  function curveChart(field, unit, noteId, what) {
    return (host) => {
      byId(noteId).textContent = '';
      const rows = curves.filter((c) => finite(c.context) && finite(c[field]) && (!state.log || (c.context > 0 && c[field] > 0)));
      if (rows.length === 0) return { message: 'The results hold no values for this chart.' };
      const shown = models.filter((m) => !state.hiddenModels.has(m.name) && rows.some((c) => c.model === m.name));
      if (shown.length === 0) return { message: 'All models are hidden.' };
      const reference = referenceContext(field);
      const atReference = new Map(rows.filter((c) => c.context === reference).map((c) => [c.model, c[field]]));
      const highest = [...atReference.entries()].sort((a, b) => b[1] - a[1])[0];
      const [scale, prefix] = prefixFor(Math.max(...rows.map((c) => c[field])));
      const ratio = (name) => {
        const own = atReference.get(name);
        return highest && own > 0 && name !== highest[0] ? times(highest[1] / own) : null;
      };
      const xs = rows.map((c) => c.context);
      const ys = rows.map((c) => c[field] / scale);
      const xAxis = state.log ? contextLogAxis(xs) : contextLinearAxis(Math.max(...xs), narrow(host) ? 4 : 8);
      const yLabel = prefix + unit;
      const yAxis = state.log ? logAxis(yLabel, ys, plain, yName)
        : axis(yLabel, Object.assign({ type: 'value', min: 0, max: niceAbove(Math.max(...ys)) }, yName));
      if (!state.log) yAxis.axisLabel = Object.assign({}, yAxis.axisLabel, { formatter: plain });

      // Ratio labels stand in the margin at the height of their line, moved apart where they would meet.
      const grid = { left: 58, right: 110, top: 34, bottom: 50 };
      const share = (axisOption, value) => {
        const at = state.log ? Math.log : (x) => x;
        return (at(value) - at(axisOption.min)) / (at(axisOption.max) - at(axisOption.min));
      };
      const plotWidth = host.clientWidth - grid.left - grid.right;
      const plotHeight = host.clientHeight - grid.top - grid.bottom;
      const labels = shown.filter((m) => ratio(m.name)).map((m) => {
        const y = plotHeight * (1 - share(yAxis, atReference.get(m.name) / scale));
        return { name: m.name, y, placed: y };
      }).sort((a, b) => b.y - a.y);
      labels.forEach((label, i) => {
        label.placed = Math.min(label.y, plotHeight - 6, i ? labels[i - 1].placed - 16 : Infinity);
      });
      const labelOf = (name) => {
        const label = labels.find((l) => l.name === name);
        return {
          show: true, position: 'right', distance: plotWidth * (1 - share(xAxis, reference)) + 6, offset: [0, label.placed - label.y],
          formatter: '{shape|' + modelStyle(name).glyph + '} ' + ratio(name) + ' lower',
          rich: { shape: { color: modelStyle(name).colour, fontSize: 12 } }, color: INK, fontSize: 12, fontWeight: 600,
        };
      };
      const series = shown.map((model) => {
        const style = modelStyle(model.name);
        const own = rows.filter((c) => c.model === model.name).sort((a, b) => a.context - b.context);
        const marked = markedContexts(own.map((c) => c.context), reference);
        return {
          type: 'line', name: modelTitle(model.name),
          data: own.map((c) => ({
            value: [c.context, c[field] / scale],
            symbolSize: marked.has(c.context) ? 9 : 0,
            label: c.context === reference && ratio(model.name) ? labelOf(model.name) : { show: false },
          })),
          symbol: 'path://' + style.symbol, lineStyle: lineOf(style, 2.2), itemStyle: symbolOf(style),
          showAllSymbol: true, clip: false, emphasis: { disabled: true },
        };
      });
      const ratios = models.filter((m) => ratio(m.name)).map((m) => modelTitle(m.name) + ' ' + ratio(m.name));
      if (ratios.length) {
        byId(noteId).textContent = 'At ' + (reference === MILLION ? '1,000,000' : contextName(reference)) + ' tokens, lower than ' +
          modelTitle(highest[0]) + ' (' + si(highest[1], unit) + '): ' + ratios.join(', ') + '.';
      }
      return {
        colours: unique(shown.map((m) => modelStyle(m.name).colour)),
        label: what + ' against context length. ' + byId(noteId).textContent,
        option: frame({
          grid, xAxis, yAxis, series,
          tooltip: Object.assign({}, frame({}).tooltip, {
            formatter: (p) => tip(p.seriesName, [
              ['context', contextName(p.value[0]) + ' tokens'], [what, si(p.value[1] * scale, unit)]]),
          }),
        }),
      };
    };
  }

  // ---- (c), (d): against context, per system -----------------------------------------------

  // Vertical whiskers; `across` turns them for horizontal bars.
  function whiskers(name, style, rows, across, text) {
    return {
      type: 'custom', name, silent: true, z: 3, data: rows, encode: across ? { x: [0, 1], y: 2 } : { x: 0, y: [1, 2] },
      clip: false,
      renderItem: (params, api) => {
        const low = across ? api.coord([api.value(0), api.value(2)]) : api.coord([api.value(0), api.value(1)]);
        const high = across ? api.coord([api.value(1), api.value(2)]) : api.coord([api.value(0), api.value(2)]);
        const cap = across ? 5 : 3;
        const line = (x1, y1, x2, y2) => ({ type: 'line', shape: { x1, y1, x2, y2 }, style: { stroke: style.colour, lineWidth: across ? 1.6 : 1.2 } });
        const children = across
          ? [line(low[0], low[1], high[0], high[1]), line(low[0], low[1] - cap, low[0], low[1] + cap), line(high[0], high[1] - cap, high[0], high[1] + cap)]
          : [line(low[0], low[1], high[0], high[1]), line(low[0] - cap, low[1], low[0] + cap, low[1]), line(high[0] - cap, high[1], high[0] + cap, high[1])];
        if (text) {
          children.push({ type: 'text', style: { text: text(params.dataIndex), x: high[0] + 8, y: high[1], fill: INK, font: '600 12px ' + getComputedStyle(document.body).fontFamily, verticalAlign: 'middle' } });
        }
        return { type: 'group', children };
      },
    };
  }

  function contextChart(field, what, axisName, format, tickFormat) {
    return (host) => {
      const shown = shownSystems().map((system) => ({ system, rows: modelPoints(system).filter((p) => interval(p[field])) }))
        .filter((s) => s.rows.length);
      if (shown.length === 0) return { message: 'No system shown serves ' + modelTitle(state.model) + '.' };
      const series = [];
      const ys = [];
      const spread = narrow(host) ? 0.3 : 0.36;   // octaves
      shown.forEach(({ system, rows }, i) => {
        const style = systemStyle(system.name);
        const aside = shown.length > 1 ? Math.pow(2, spread * (i / (shown.length - 1) - 0.5)) : 1;
        const at = (p) => p.context * aside;
        // A context without a point breaks the line.
        const own = contexts.map((context) => rows.find((p) => p.context === context) || { context })
          .filter((p) => p.context > 0);
        series.push({
          type: 'line', name: systemTitle(system.name), symbol: 'path://' + style.symbol, symbolSize: 10,
          lineStyle: lineOf(style), itemStyle: symbolOf(style), showAllSymbol: true, clip: false, z: 4,
          emphasis: { disabled: true },
          data: own.map((p) => ({ value: [at(p), p[field] ? interval(p[field]).value : null], point: p })),
        });
        const ranged = rows.filter((p) => interval(p[field]).low > 0 && interval(p[field]).high > 0);
        series.push(whiskers(systemTitle(system.name), style, ranged.map((p) => [at(p), interval(p[field]).low, interval(p[field]).high])));
        for (const p of rows) {
          const i3 = interval(p[field]);
          ys.push(...[i3.low, i3.value, i3.high].filter((v) => v > 0));
        }
      });
      if (ys.length === 0) return { message: 'The results hold no values for this chart.' };
      return {
        colours: unique(shown.map((s) => systemStyle(s.system.name).colour)),
        label: what + ' against context length for ' + modelTitle(state.model) + ', one line per system. The table of all points holds the values.',
        option: frame({
          grid: { left: 62, right: 16, top: 34, bottom: 50 },
          xAxis: contextLogAxis(contexts.filter((c) => c > 0)),
          yAxis: logAxis(axisName, ys, tickFormat, yName),
          series,
          tooltip: Object.assign({}, frame({}).tooltip, {
            formatter: (p) => {
              const point = p.data.point;
              if (!point) return '';
              const value = interval(point[field]);
              return tip(p.seriesName, [
                ['context', contextName(point.context)], [what, format(value.value)], ['90 % range', rangeText(point[field], format)],
                ['plan', point.plan], ['batch per device', finite(point.batch_per_device) ? plain(point.batch_per_device) : ''],
                ['time per token', interval(point.tpot_ms) ? sig3(interval(point.tpot_ms).value) + ' ms' : ''], ['limited by', point.decode_bound],
              ]);
            },
          }),
        }),
      };
    };
  }

  // ---- (e): roofline -----------------------------------------------------------------------

  function matrixPeak(system) {
    const peaks = Object.entries(system.peak_flops_per_s || {}).filter(([, value]) => value > 0);
    for (const wanted of ['fp8', 'int8', 'bf16']) {
      const found = peaks.find(([dtype]) => dtype.toLowerCase().startsWith(wanted));
      if (found) return { dtype: wanted.toUpperCase(), value: found[1] };
    }
    return null;
  }

  function rooflineChart() {
    byId('roof-peak').textContent = 'the dense matrix peak';
    const shown = shownSystems().map((system) => ({
      system, peak: matrixPeak(system), bandwidth: system.hbm_bandwidth_bytes_per_s,
      rows: modelPoints(system).filter((p) => p.arithmetic_intensity_flops_per_byte > 0 && p.achieved_flops_per_s_per_device > 0),
    })).filter((s) => s.rows.length);
    if (shown.length === 0) return { message: 'No system shown serves ' + modelTitle(state.model) + '.' };
    const roofed = shown.filter((s) => s.peak && s.bandwidth > 0);
    const dtypes = unique(roofed.map((s) => s.peak.dtype));
    if (dtypes.length) byId('roof-peak').textContent = 'the dense ' + dtypes.join(' or ') + ' matrix peak';
    const all = shown.flatMap((s) => s.rows);
    const xs = all.map((p) => p.arithmetic_intensity_flops_per_byte);
    const ys = all.map((p) => p.achieved_flops_per_s_per_device);
    const ridges = roofed.map((s) => s.peak.value / s.bandwidth);
    const xScale = logScale(xs.concat(ridges), 1.6);
    const yScale = logScale(ys.concat(roofed.map((s) => s.peak.value)), 1.3);
    const series = [];
    for (const { system, peak, bandwidth, rows } of shown) {
      const style = systemStyle(system.name);
      if (peak && bandwidth > 0) {
        const start = Math.max(xScale.min, yScale.min / bandwidth);
        series.push({
          type: 'line', name: systemTitle(system.name), symbol: 'none', silent: true, lineStyle: lineOf(style, 1.8), z: 2,
          data: [[start, start * bandwidth], [peak.value / bandwidth, peak.value], [xScale.max, peak.value]],
        });
      }
      series.push({
        type: 'scatter', name: systemTitle(system.name), symbol: 'path://' + style.symbol, itemStyle: symbolOf(style), z: 4,
        emphasis: { disabled: true },
        data: rows.map((p) => ({
          value: [p.arithmetic_intensity_flops_per_byte, p.achieved_flops_per_s_per_device], point: p, bandwidth, peak,
          symbolSize: 8 + 8 * contexts.indexOf(p.context) / Math.max(1, contexts.length - 1),
        })),
      });
    }
    byId('note-roofline').textContent = dtypes.length ? '' : 'The results state no peak and bandwidth, so no roof is drawn.';
    return {
      colours: unique(shown.map((s) => systemStyle(s.system.name).colour)),
      label: 'Roofline for ' + modelTitle(state.model) + ': achieved FLOPs per second and device against arithmetic intensity, with each system\'s bandwidth and matrix roofs.',
      option: frame({
        grid: { left: 62, right: 16, top: 34, bottom: 50 },
        xAxis: logAxis('Arithmetic intensity (FLOPs per byte of HBM traffic)', [xScale.min, xScale.max], plain, xName),
        yAxis: logAxis('FLOP/s per device', [yScale.min, yScale.max], siTick, yName),
        series,
        tooltip: Object.assign({}, frame({}).tooltip, {
          formatter: (p) => {
            const point = p.data.point;
            if (!point) return '';
            const [x, y] = p.value;
            const roof = p.data.peak && p.data.bandwidth > 0 ? Math.min(p.data.peak.value, x * p.data.bandwidth) : null;
            return tip(p.seriesName, [
              ['context', contextName(point.context)], ['intensity', sig3(x) + ' FLOPs per byte'], ['achieved', si(y, 'FLOP/s')],
              ['of its roof', roof ? sig3(100 * y / roof) + ' %' : ''], ['limited by', point.decode_bound],
            ]);
          },
        }),
      }),
    };
  }

  // ---- (f), (g): one context, bars ---------------------------------------------------------

  function systemAxis(names, host) {
    return {
      type: 'category', inverse: true, data: names,
      axisLine: { show: true, lineStyle: { color: '#767676' } }, axisTick: { show: false },
      axisLabel: { color: INK, fontSize: 12, width: narrow(host) ? 96 : 138, overflow: 'break', lineHeight: 14, interval: 0 },
    };
  }
  const barGrid = (host, top, right) => ({ left: narrow(host) ? 106 : 150, right, top, bottom: 46 });
  const barHeight = (count) => Math.max(220, 96 + 42 * count);

  const BOUNDS = {
    memory: { title: 'HBM', colour: '#0072B2', decal: null },
    matrix: { title: 'matrix', colour: '#E69F00', decal: { dashArrayX: [1, 0], dashArrayY: [2, 5], rotation: Math.PI / 4 } },
    vector: { title: 'vector', colour: '#009E73', decal: { dashArrayX: [1, 0], dashArrayY: [2, 5], rotation: -Math.PI / 4 } },
    cache: { title: 'cache', colour: '#CC79A7', decal: { symbol: 'circle', symbolSize: 0.7, dashArrayX: [[5, 5], [0, 5, 5, 0]], dashArrayY: [5, 0] } },
    link: { title: 'link', colour: '#D55E00', decal: { dashArrayX: [1, 0], dashArrayY: [2, 4], rotation: 0 } },
    latency: { title: 'latency', colour: '#56B4E9', decal: { dashArrayX: [1, 0], dashArrayY: [2, 4], rotation: Math.PI / 2 } },
  };
  const OTHER_BOUND = { colour: '#777777', decal: { dashArrayX: [2, 3], dashArrayY: [2, 3] } };

  function sharesChart(host) {
    const rows = shownSystems().map((system) => ({ system, point: casePoint(system) }))
      .filter((r) => r.point && r.point.decode_shares && Object.values(r.point.decode_shares).some((x) => x > 0));
    if (rows.length === 0) return { message: 'No system shown serves ' + modelTitle(state.model) + ' at ' + contextName(state.context) + '.' };
    const present = unique(Object.keys(BOUNDS).concat(...rows.map((r) => Object.keys(r.point.decode_shares))))
      .filter((bound) => rows.some((r) => r.point.decode_shares[bound] > 0));
    const series = present.map((bound) => {
      const style = BOUNDS[bound] || OTHER_BOUND;
      return {
        type: 'bar', stack: 'time', name: style.title || bound, barWidth: 22, emphasis: { disabled: true },
        itemStyle: {
          color: style.colour, borderColor: '#fff', borderWidth: 1,
          decal: style.decal ? Object.assign({ color: 'rgba(255,255,255,0.4)' }, style.decal) : null,
        },
        data: rows.map((r) => {
          const share = r.point.decode_shares[bound] || 0;
          return { value: share, label: { show: share >= (narrow(host) ? 0.16 : 0.09) } };
        }),
        label: {
          color: INK, fontSize: 11, backgroundColor: 'rgba(255,255,255,0.9)', padding: [2, 3, 1, 3], borderRadius: 2,
          formatter: (p) => Math.round(100 * p.value) + ' %',
        },
      };
    });
    const most = Math.max(...rows.map((r) => Object.values(r.point.decode_shares).reduce((a, b) => a + (b || 0), 0)));
    return {
      height: barHeight(rows.length) + 20,
      colours: unique(present.map((bound) => (BOUNDS[bound] || OTHER_BOUND).colour)),
      label: 'Share of decode time by limiting resource for ' + modelTitle(state.model) + ' at ' + contextName(state.context) + ': ' +
        rows.map((r) => systemTitle(r.system.name) + ' ' + present.map((b) => b + ' ' + Math.round(100 * (r.point.decode_shares[b] || 0)) + ' %').join(', ')).join('; '),
      option: frame({
        legend: { top: 0, left: 0, itemWidth: 22, itemHeight: 13, itemGap: 14, textStyle: { color: INK, fontSize: 12 }, selectedMode: false },
        grid: barGrid(host, narrow(host) ? 52 : 34, 16),
        xAxis: axis('Share of step time', Object.assign({
          type: 'value', min: 0, max: Math.max(1, Math.ceil(most * 10 - 0.01) / 10),
          axisLabel: { color: INK, fontSize: 12, hideOverlap: true, formatter: (x) => Math.round(100 * x) + ' %' },
        }, xName)),
        yAxis: systemAxis(rows.map((r) => systemTitle(r.system.name)), host),
        series,
        tooltip: Object.assign({}, frame({}).tooltip, {
          formatter: (p) => tip(p.name, [[p.seriesName, sig3(100 * p.value) + ' % of the step']]),
        }),
      }),
    };
  }

  function priceChart(host) {
    const costField = 'cost_usd_per_mtok_' + state.direction;
    const priceField = 'list_price_usd_per_mtok_' + state.direction;
    byId('direction-name').textContent = state.direction;
    byId('note-price').textContent = '';
    const rows = shownSystems().map((system) => ({ system, point: casePoint(system) }))
      .filter((r) => r.point && interval(r.point[costField]))
      .sort((a, b) => interval(a.point[costField]).value - interval(b.point[costField]).value);
    if (rows.length === 0) return { message: 'No system shown serves ' + modelTitle(state.model) + ' at ' + contextName(state.context) + '.' };
    const priced = points.find((p) => p.model === state.model && finite(p[priceField]));
    const price = priced ? priced[priceField] : null;
    const notes = [];
    notes.push(price === null ? 'The results hold no list price for this model.' : 'List price: ' + dollars(price) + ' per million ' + state.direction + ' tokens.');
    const breakEven = rows.filter((r) => finite(r.point.break_even_usd_per_device_hour));
    if (breakEven.length) {
      notes.push('Hourly device price at which list-price income equals cost: ' +
        breakEven.map((r) => systemTitle(r.system.name) + ' ' + dollars(r.point.break_even_usd_per_device_hour)).join(', ') + '.');
    }
    byId('note-price').textContent = notes.join(' ');
    const cost = (r) => interval(r.point[costField]);
    const high = Math.max(...rows.map((r) => cost(r).high || cost(r).value), price || 0);
    return {
      height: barHeight(rows.length) + 20,
      colours: unique(rows.map((r) => systemStyle(r.system.name).colour)),
      label: 'Cost per million ' + state.direction + ' tokens of ' + modelTitle(state.model) + ' at ' + contextName(state.context) + ': ' +
        rows.map((r) => systemTitle(r.system.name) + ' ' + dollars(cost(r).value)).join(', ') + '. ' + notes[0],
      option: frame({
        grid: barGrid(host, 34, 62),
        xAxis: axis('US dollars per million ' + state.direction + ' tokens', Object.assign({
          type: 'value', min: 0, max: (v) => niceAbove(Math.max(high, v.max)),
          axisLabel: { color: INK, fontSize: 12, hideOverlap: true, formatter: dollarTick },
        }, xName)),
        yAxis: systemAxis(rows.map((r) => systemTitle(r.system.name)), host),
        series: [{
          type: 'bar', name: 'cost', barWidth: 18, emphasis: { disabled: true },
          data: rows.map((r) => {
            const style = systemStyle(r.system.name);
            return {
              value: cost(r).value,
              itemStyle: { color: style.colour, opacity: 1, decal: style.hollow ? { color: 'rgba(255,255,255,0.55)', dashArrayX: [1, 0], dashArrayY: [3, 4], rotation: Math.PI / 4 } : null },
            };
          }),
          markLine: price === null ? undefined : {
            symbol: 'none', silent: true, animation: false, data: [{ xAxis: price }], lineStyle: { color: '#000', width: 2, type: [6, 4] },
            label: { formatter: 'list price ' + dollars(price), color: INK, fontSize: 12, fontWeight: 600, position: 'start', rotate: 0, distance: 4 },
          },
        }, whiskers('range', { colour: '#000000' }, rows.map((r, i) => [cost(r).low === null ? cost(r).value : cost(r).low, cost(r).high === null ? cost(r).value : cost(r).high, i]), true, (i) => dollars(cost(rows[i]).value))],
        tooltip: Object.assign({}, frame({}).tooltip, {
          formatter: (p) => {
            const r = rows[p.dataIndex];
            return tip(p.name, [['cost', dollars(cost(r).value)], ['90 % range', rangeText(r.point[costField], dollars)],
              ['list price', price === null ? '' : dollars(price)], ['device hour', interval(r.point.usd_per_device_hour) ? dollars(interval(r.point.usd_per_device_hour).value) : '']]);
          },
        }),
      }),
    };
  }

  function niceAbove(x) {
    if (!(x > 0)) return 1;
    const decade = Math.pow(10, Math.floor(Math.log10(x)));
    for (const digit of [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10]) {
      if (digit * decade >= x * 1.02) return digit * decade;
    }
    return x;
  }

  // ---- drawing all of it -------------------------------------------------------------------

  const CURVE_CHARTS = [
    ['chart-flops', curveChart('fp8_equivalent_flops_per_token', 'FLOP', 'note-flops', 'FP8-equivalent FLOPs per token')],
    ['chart-kv', curveChart('kv_bytes_cache', 'B', 'note-kv', 'KV cache per sequence')],
  ];
  const POINT_CHARTS = [
    ['chart-throughput', contextChart('tput_per_gpu', 'throughput', 'Tokens/s per device', (x) => sig3(x) + ' tokens/s', plain)],
    ['chart-cost', contextChart('cost_usd_per_mtok_output', 'cost', '$ per million output tokens', dollars, dollarTick)],
    ['chart-price', priceChart],
    ['chart-shares', sharesChart],
    ['chart-roofline', rooflineChart],
  ];
  const hasPoints = okPoints.length > 0;

  function notShown() {
    const groups = new Map();
    for (const p of points) {
      if (p.model !== state.model || p.status === 'ok') continue;
      const key = JSON.stringify([p.system, p.status]);
      groups.set(key, (groups.get(key) || []).concat(p.context));
    }
    const parts = [...groups.entries()].map(([key, at]) => {
      const [system, status] = JSON.parse(key);
      return systemTitle(system) + ' at ' + at.sort(ascending).map(contextName).join(', ') + ' (' + statusWords(status).replace(/^\S+ /, '') + ')';
    });
    return 'Whiskers are 90 % ranges. Points are set slightly apart sideways so that the whiskers can be told apart.' +
      (parts.length ? ' Not drawn: ' + parts.join('; ') + '.' : '');
  }

  function drawCurves() {
    for (const [id, build] of CURVE_CHARTS) draw(id, build);
    report();
  }

  function drawPoints() {
    if (!hasPoints) { report(); return; }
    for (const node of document.querySelectorAll('.which-model')) node.textContent = '· ' + modelTitle(state.model);
    for (const node of document.querySelectorAll('.which-case')) node.textContent = '· ' + modelTitle(state.model) + ' at ' + contextName(state.context);
    byId('note-points').textContent = notShown();
    for (const [id, build] of POINT_CHARTS) draw(id, build);
    report();
  }

  // For tests: how many charts this page should have and how many show their data.
  function report() {
    const expected = CURVE_CHARTS.length + (hasPoints ? POINT_CHARTS.length : 0);
    const root = document.documentElement;
    root.setAttribute('data-charts-expected', String(expected));
    root.setAttribute('data-charts-drawn', String([...drawn.values()].filter(Boolean).length));
    root.setAttribute('data-resources', String(performance.getEntriesByType('resource').length));
  }

  // One pressed button in a row; `choices` are [value, text].
  function choice(host, choices, current, chosen) {
    for (const [value, text] of choices) {
      const button = el('button', { type: 'button', 'aria-pressed': String(value === current), text });
      button.addEventListener('click', () => {
        for (const other of host.querySelectorAll('button')) other.setAttribute('aria-pressed', String(other === button));
        chosen(value);
      });
      host.append(button);
    }
  }

  function legend(host, items, styleOf, hidden, redraw) {
    for (const item of items) {
      const button = el('button', { type: 'button', 'aria-pressed': 'true', title: 'Show or hide' },
        swatch(styleOf(item.name)), el('span', { text: String(item.title || item.name || DASH) }));
      button.addEventListener('click', () => {
        if (hidden.has(item.name)) hidden.delete(item.name); else hidden.add(item.name);
        button.setAttribute('aria-pressed', String(!hidden.has(item.name)));
        redraw();
      });
      host.append(button);
    }
  }

  // ---- table of all points -----------------------------------------------------------------

  const ranged = (field, format) => ({
    key: (p) => { const i = interval(p[field]); return i ? i.value : null; },
    fill: (td, p) => {
      const i = interval(p[field]);
      td.textContent = i ? format(i.value) : DASH;
      const range = rangeText(p[field], format);
      if (range) td.append(el('span', { class: 'range', text: range }));
    },
    number: true,
  });
  const count = (field) => ({ key: (p) => (finite(p[field]) ? p[field] : null), fill: (td, p) => { td.textContent = plain(p[field]); }, number: true });
  const words = (field) => ({ key: (p) => (p[field] ? String(p[field]) : null), fill: (td, p) => { td.textContent = p[field] ? String(p[field]) : DASH; } });

  const COLUMNS = [
    { title: 'Model', name: true, key: (p) => modelTitle(p.model), fill: (td, p) => { td.textContent = modelTitle(p.model); } },
    { title: 'System', name: true, key: (p) => systemTitle(p.system), fill: (td, p) => { td.textContent = systemTitle(p.system); } },
    { title: 'Context', unit: 'tokens', number: true, key: (p) => p.context, fill: (td, p) => { td.textContent = contextName(p.context); } },
    { title: 'Status', key: (p) => p.status, fill: (td, p) => { td.textContent = statusWords(p.status); } },
    Object.assign({ title: 'Output', unit: '$ per M tok' }, ranged('cost_usd_per_mtok_output', dollars)),
    Object.assign({ title: 'Input', unit: '$ per M tok' }, ranged('cost_usd_per_mtok_input', dollars)),
    Object.assign({ title: 'Decode', unit: 'tok/s/device' }, ranged('tput_per_gpu', sig3)),
    Object.assign({ title: 'TPOT', unit: 'ms' }, ranged('tpot_ms', sig3)),
    Object.assign({ title: 'Prefill', unit: 'tok/s/device' }, ranged('prefill_tput_per_gpu', sig3)),
    Object.assign({ title: 'TTFT', unit: 'ms' }, ranged('prefill_ttft_ms', sig3)),
    Object.assign({ title: 'Energy', unit: 'J per out tok' }, ranged('energy_j_per_token_output', sig3)),
    Object.assign({ title: 'Batch', unit: 'per device' }, count('batch_per_device')),
    Object.assign({ title: 'Plan' }, words('plan')),
    Object.assign({ title: 'Bound' }, words('decode_bound')),
    Object.assign({ title: 'Basis' }, words('basis')),
  ];
  const NAMING_COLUMNS = 3;

  function pointsTable() {
    const table = byId('points');
    const body = table.tBodies[0];
    const sort = { column: null, down: false };
    const filter = { model: '', system: '', context: '', status: '', text: '' };

    const searchable = new Map(points.map((p) => [p,
      [modelTitle(p.model), systemTitle(p.system), statusWords(p.status), p.reason, p.plan, p.precision, p.basis, p.decode_bound].join(' ').toLowerCase()]));

    const cellOf = (column, p) => {
      const td = el('td', column.number ? { class: 'num' } : { class: column.name ? 'name' : null });
      column.fill(td, p);
      return td;
    };
    // A point without numbers gives its reason across their columns.
    const rowOf = (p) => {
      if (p.status === 'ok' || interval(p.tpot_ms)) {
        const cells = COLUMNS.map((column) => cellOf(column, p));
        if (p.status !== 'ok' && p.reason) cells[NAMING_COLUMNS].append(el('span', { class: 'reason', text: p.reason }));
        return el('tr', {}, ...cells);
      }
      const reason = [p.reason || 'no reason given', p.plan ? '(' + p.plan + ')' : ''].join(' ').trim();
      return el('tr', { class: 'bad' }, ...COLUMNS.slice(0, NAMING_COLUMNS).map((column) => cellOf(column, p)),
        el('td', { colspan: COLUMNS.length - NAMING_COLUMNS }, el('span', { class: 'status', text: statusWords(p.status) }),
          el('span', { class: 'reason', text: reason })));
    };
    const rows = new Map(points.map((p) => [p, rowOf(p)]));

    function show() {
      const kept = points.filter((p) =>
        (!filter.model || p.model === filter.model) && (!filter.system || p.system === filter.system) &&
        (!filter.context || String(p.context) === filter.context) && (!filter.status || p.status === filter.status) &&
        (!filter.text || searchable.get(p).includes(filter.text)));
      if (sort.column) {
        const missing = (x) => x === null || x === undefined;
        kept.sort((a, b) => {
          const x = sort.column.key(a);
          const y = sort.column.key(b);
          if (missing(x) || missing(y)) return Number(missing(x)) - Number(missing(y));   // gaps last, either way
          const order = sort.column.number ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true });
          return sort.down ? -order : order;
        });
      }
      body.replaceChildren(...kept.map((p) => rows.get(p)));
      if (kept.length === 0) {
        body.append(el('tr', {}, el('td', { colspan: COLUMNS.length, text: points.length ? 'No point matches the filters.' : 'The results hold no points.' })));
      }
      byId('point-count').textContent = points.length ? kept.length + ' of ' + points.length + ' points' : '';
    }

    const head = el('tr');
    for (const column of COLUMNS) {
      const arrow = el('span', { class: 'arrow', 'aria-hidden': 'true' });
      const button = el('button', { type: 'button' }, el('span', { text: column.title }), arrow);
      if (column.unit) button.append(el('span', { class: 'unit', text: column.unit }));
      const th = el('th', Object.assign({ scope: 'col', 'aria-sort': 'none' }, column.number ? { class: 'num' } : {}), button);
      button.addEventListener('click', () => {
        sort.down = sort.column === column ? !sort.down : false;
        sort.column = column;
        for (const other of head.cells) {
          other.setAttribute('aria-sort', other === th ? (sort.down ? 'descending' : 'ascending') : 'none');
          other.querySelector('.arrow').textContent = other === th ? (sort.down ? '▼' : '▲') : '';
        }
        show();
      });
      head.append(th);
    }
    table.tHead.append(head);

    function select(id, field, choices) {
      const node = byId(id);
      node.append(el('option', { value: '', text: 'all' }));
      for (const [value, text] of choices) node.append(el('option', { value, text }));
      node.addEventListener('change', () => { filter[field] = node.value; show(); });
    }
    select('filter-model', 'model', models.map((m) => [m.name, modelTitle(m.name)]));
    select('filter-system', 'system', systems.map((s) => [s.name, systemTitle(s.name)]));
    select('filter-context', 'context', contexts.map((c) => [String(c), contextName(c)]));
    select('filter-status', 'status', unique(points.map((p) => p.status)).map((s) => [s, statusWords(s)]));
    byId('filter-text').addEventListener('input', (event) => { filter.text = event.target.value.trim().toLowerCase(); show(); });
    show();
  }

  // ---- systems, list prices ----------------------------------------------------------------

  function simpleTable(id, caption, columns, items) {
    const table = byId(id);
    if (items.length === 0) { table.closest('.scroll').hidden = true; return; }
    const head = el('tr');
    for (const [title, , number] of columns) head.append(el('th', { scope: 'col', class: number ? 'num' : null, text: title }));
    const body = el('tbody');
    for (const item of items) {
      const tr = el('tr');
      for (const [, value, number] of columns) {
        const text = value(item);
        tr.append(el('td', { class: number ? 'num' : null, text: text === null || text === undefined || text === '' ? DASH : String(text) }));
      }
      body.append(tr);
    }
    table.append(el('caption', { text: caption }), el('thead', {}, head), body);
  }

  function peakText(system) {
    const peak = matrixPeak(system);
    return peak ? si(peak.value, 'FLOP/s') + ' ' + peak.dtype : null;
  }

  function specTables() {
    simpleTable('specs', 'Systems compared. Memory, bandwidth and dense matrix peak are per device.', [
      ['System', (s) => systemTitle(s.name)], ['Vendor', (s) => s.vendor], ['Chip', (s) => s.chip_title || s.chip],
      ['Devices', (s) => s.devices, true], ['HBM', (s) => (finite(s.hbm_capacity_bytes) ? si(s.hbm_capacity_bytes, 'B') : null), true],
      ['Bandwidth', (s) => (finite(s.hbm_bandwidth_bytes_per_s) ? si(s.hbm_bandwidth_bytes_per_s, 'B/s') : null), true],
      ['Matrix peak', peakText, true], ['Precision', (s) => s.precision], ['Status', (s) => s.status],
    ], systems);
    const money = (p, x) => (finite(x) ? sig3(x) + ' ' + (p.currency || '') : null);
    simpleTable('list-prices', 'List prices per million tokens.', [
      ['Model', (p) => modelTitle(p.model)], ['Input', (p) => money(p, p.input), true],
      ['Input, cache hit', (p) => money(p, p.input_cache_hit), true], ['Output', (p) => money(p, p.output), true], ['Note', (p) => p.note],
    ], list(data.list_prices));
  }

  // ---- go ----------------------------------------------------------------------------------

  choice(byId('scale-buttons'), [[false, 'Linear axes'], [true, 'Logarithmic axes']], state.log, (log) => { state.log = log; drawCurves(); });
  legend(byId('model-legend'), models.filter((m) => curves.some((c) => c.model === m.name)), modelStyle, state.hiddenModels, drawCurves);
  legend(byId('system-legend'), systems, systemStyle, state.hiddenSystems, drawPoints);
  choice(byId('model-buttons'), servedModels.map((m) => [m.name, modelTitle(m.name)]), state.model, (model) => { state.model = model; drawPoints(); });
  choice(byId('context-buttons'), contexts.map((c) => [c, contextName(c)]), state.context, (context) => { state.context = context; drawPoints(); });
  choice(byId('direction-buttons'), [['output', 'Output'], ['input', 'Input']], state.direction, (direction) => { state.direction = direction; drawPoints(); });
  byId('no-points').hidden = hasPoints;
  byId('point-charts').hidden = !hasPoints;
  pointsTable();
  specTables();
  drawCurves();
  drawPoints();

  let width = window.innerWidth;
  let timer = null;
  window.addEventListener('resize', () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(() => { drawCurves(); drawPoints(); }, 120);
  });
})();
