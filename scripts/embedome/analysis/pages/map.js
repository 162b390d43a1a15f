"use strict";
/* The map of the sample: points in one or two planes, coloured by what the reader chooses, and a search by id. */
{
  const SIGNS = { circle: "●", triangle: "▲", square: "■", diamond: "◆", inverted_triangle: "▼", plus: "✚", star: "★" };
  const KINDS = { uint16: Uint16Array, int32: Int32Array, float32: Float32Array };
  const MANY = 5000;
  const LISTED = 10;

  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const array = ({ kind, base64 }) => new KINDS[kind](bytes(base64).buffer);
  const element = id => document.getElementById(id);
  const number = value => value.toLocaleString("en", { maximumSignificantDigits: 4 });

  const data = JSON.parse(element("data").textContent);
  const ids = data.sequences ? new TextDecoder().decode(bytes(data.ids)).split("\n") : [];
  const fields = Object.fromEntries(data.fields.map(field => [field.key, { ...field, values: array(field.values) }]));

  /* What a field says of each sequence, for the pointer. */
  const texts = field => Array.from(field.values, value => (field.names ? field.names[value] : number(value)));

  const columns = { id: ids };
  for (const field of data.fields) columns[`text_${field.key}`] = texts(fields[field.key]);
  for (const [place, view] of data.views.entries()) {
    columns[`x${place}`] = array(view.x);
    columns[`y${place}`] = array(view.y);
  }

  /* Colour and marker of each sequence. */
  function styles(field) {
    if (field.names) {
      const place = field.styles.map(style => [style.color, style.marker]);
      return {
        color: Array.from(field.values, code => place[code][0]),
        marker: Array.from(field.values, code => place[code][1]),
      };
    }
    const scale = field.log ? Math.log : Number;
    const { low, high } = field;
    const width = scale(high) - scale(low) || 1;
    const last = data.ramp.length - 1;
    return {
      color: Array.from(field.values, value => data.ramp[Math.round((last * (scale(value) - scale(low))) / width)]),
      marker: Array.from(field.values, () => "circle"),
    };
  }

  const first = data.fields[0].key;
  const source = new Bokeh.ColumnDataSource({ data: { ...columns, ...styles(fields[first]) } });
  const hits = new Bokeh.ColumnDataSource({
    data: Object.fromEntries(data.views.flatMap((_, place) => [[`x${place}`, []], [`y${place}`, []]])),
  });

  const figures = data.views.map((view, place) => {
    const figure = Bokeh.Plotting.figure({
      title: view.title,
      x_axis_label: view.axes[0],
      y_axis_label: view.axes[1],
      tools: "pan,wheel_zoom,box_zoom,reset,save",
      active_scroll: "wheel_zoom",
      output_backend: "webgl",
      sizing_mode: "stretch_both",
      min_width: 200,
      min_height: 200,
    });
    figure.toolbar.logo = null;
    const points = figure.scatter({
      x: { field: `x${place}` },
      y: { field: `y${place}` },
      marker: { field: "marker" },
      fill_color: { field: "color" },
      line_color: null,
      fill_alpha: 0.8,
      size: ids.length > MANY ? 4 : 6,
      source,
    });
    figure.scatter({
      x: { field: `x${place}` },
      y: { field: `y${place}` },
      marker: "circle",
      fill_color: null,
      line_color: "#000000",
      line_width: 2.5,
      size: 16,
      source: hits,
    });
    const tooltips = [["id", "@id"], ...data.fields.map(field => [field.name, `@text_${field.key}`])];
    figure.add_tools(new Bokeh.HoverTool({ renderers: [points], tooltips, limit: 5 }));
    return figure;
  });

  function line(sign, color, text) {
    const item = document.createElement("li");
    const mark = document.createElement("i");
    mark.textContent = sign;
    mark.style.color = color;
    item.append(mark, text);
    return item;
  }

  function drawLegend(field) {
    const heading = document.createElement("h2");
    heading.textContent = field.unit ? `${field.name} (${field.unit})` : `${field.name} (sequences)`;
    if (field.names) {
      const list = document.createElement("ul");
      for (const entry of field.legend) list.append(line(SIGNS[entry.marker], entry.color, entry.text));
      element("legend").replaceChildren(heading, list);
      return;
    }
    const ramp = document.createElement("div");
    ramp.className = "ramp";
    ramp.style.background = `linear-gradient(to right, ${data.ramp.join(", ")})`;
    const ends = document.createElement("div");
    ends.className = "ends";
    for (const text of [number(field.low), field.log ? "logarithmic" : "", number(field.high)]) {
      const end = document.createElement("span");
      end.textContent = text;
      ends.append(end);
    }
    element("legend").replaceChildren(heading, ramp, ends);
  }

  function colorBy(key) {
    source.data = { ...source.data, ...styles(fields[key]) };
    drawLegend(fields[key]);
  }

  /* The sequence of that id, or all whose id has the text in it. */
  function find(text) {
    const exact = ids.indexOf(text);
    if (exact >= 0) return [exact];
    const small = text.toLowerCase();
    return ids.flatMap((id, place) => (id.toLowerCase().includes(small) ? [place] : []));
  }

  function describe(place) {
    return [ids[place], ...data.fields.map(field => `${field.name} ${columns[`text_${field.key}`][place]}`)].join(", ");
  }

  function search() {
    const text = element("search").value.trim();
    const found = text ? find(text) : [];
    hits.data = Object.fromEntries(Object.keys(hits.data).map(name => [name, found.map(place => columns[name][place])]));
    const more = found.length > LISTED ? ", …" : "";
    const listed = found.slice(0, LISTED).map(describe).join("; ");
    element("found").textContent = !text
      ? ""
      : found.length
        ? `${found.length.toLocaleString("en")} found, in a ring: ${listed}${more}`
        : `No id of the sample has “${text}” in it.`;
  }

  for (const field of data.fields) element("color").append(new Option(field.name, field.key));
  element("color").addEventListener("change", event => colorBy(event.target.value));
  element("search").addEventListener("input", search);
  document.querySelector("form").addEventListener("submit", event => event.preventDefault());
  element("drawn").textContent = data.views
    .map((view, place) => `${view.name}: ${columns[`x${place}`].filter(Number.isFinite).length.toLocaleString("en")} drawn`)
    .join("; ");
  drawLegend(fields[first]);
  for (const figure of figures) {
    const plot = document.createElement("div");
    plot.className = "plot";
    element("map").insertBefore(plot, element("legend"));
    plot.dataset.plot = "";
  }
  const plots = [...document.querySelectorAll(".plot")];
  const document_ = new Bokeh.Document();
  for (const figure of figures) document_.add_root(figure);
  Bokeh.embed.add_document_standalone(document_, element("map"), plots).then(() => {
    document.body.dataset.ready = "";
  });
  window.embedomeMap = { figures, source, hits };
}
