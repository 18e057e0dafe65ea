"use strict";

// Curves: the values of an epoch, by pointer and by arrow keys.
for (const chart of document.querySelectorAll("[data-curves]")) {
  const { places, lines } = JSON.parse(chart.dataset.curves);
  const svg = chart.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const read = chart.querySelector(".read");
  const width = svg.viewBox.baseVal.width;
  let shown = -1;
  const show = (place) => {
    shown = Math.max(0, Math.min(places.length - 1, place));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, places[shown] * width);
    cursor.setAttribute("visibility", "visible");
    const values = lines.map(({ label, values }) => `${label} ${values[shown] ?? "–"}`);
    read.textContent = `Epoch ${shown + 1}: ${values.join("; ")}`;
  };
  chart.addEventListener("pointermove", (event) => {
    read.setAttribute("aria-live", "off"); // a screen reader would read at each pixel
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    const distances = places.map((place) => Math.abs(place - at));
    show(distances.indexOf(Math.min(...distances)));
  });
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      event.preventDefault();
      read.setAttribute("aria-live", "polite");
      show(shown < 0 ? 0 : shown + step);
    }
  });
}

// Samples: which are shown follows from the filters; some at a time.
const source = document.getElementById("samples-data");
if (source) {
  const data = JSON.parse(source.textContent);
  const grid = document.getElementById("samples-grid");
  const count = document.getElementById("samples-count");
  const more = document.getElementById("samples-more");
  const filters = ["class", "run", "outcome"].map((name) => document.getElementById(`filter-${name}`));
  const atOnce = 48;
  // Once, and not at each picture: it is most of a megabyte.
  grid.style.setProperty("--sprite", `url(${data.sprite})`);
  let wanted = [];
  let shown = 0;

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  const card = (at) => {
    const item = element("li");
    const picture = element("div", "", "picture");
    const [scaleX, scaleY] = [64 / data.size[0], 64 / data.size[1]];
    const rows = Math.ceil(data.positions.length / data.columns);
    picture.style.backgroundSize = `${64 * data.columns}px ${64 * rows}px`;
    const column = at % data.columns;
    const row = Math.floor(at / data.columns);
    picture.style.backgroundPosition = `${-column * data.size[0] * scaleX}px ${-row * data.size[1] * scaleY}px`;
    picture.setAttribute("role", "img");
    const truth = data.classes[data.labels[at]];
    picture.setAttribute("aria-label", `test image ${data.positions[at]}, ${truth}`);
    const words = element("div");
    words.append(element("strong", truth), element("div", `test image ${data.positions[at]}`));
    const answers = element("ul");
    data.runs.forEach((name, run) => {
      const { predicted, probability, ofTrue } = data.answers[run];
      const isRight = predicted[at] === data.labels[at];
      const said = `${data.classes[predicted[at]]} ${percent(probability[at])}`;
      const rest = isRight ? "" : `, ${truth} ${percent(ofTrue[at])}`;
      answers.append(element("li", `${isRight ? "✓" : "✗"} ${name}: ${said}${rest}`));
    });
    item.append(picture, words, answers);
    return item;
  };

  const showMore = () => {
    const next = wanted.slice(shown, shown + atOnce);
    grid.append(...next.map(card));
    shown += next.length;
    count.textContent = `${shown} of ${wanted.length} images that match; ${data.positions.length} of the ${data.total} test images are in this page`;
    more.hidden = shown >= wanted.length;
  };

  const filter = () => {
    const [label, run, outcome] = filters.map((choice) => choice.value);
    const runs = run === "" ? data.runs.map((_, place) => place) : [Number(run)];
    wanted = data.positions.map((_, at) => at).filter((at) => {
      if (label !== "" && data.labels[at] !== Number(label)) return false;
      const said = runs.map((place) => data.answers[place].predicted[at]);
      if (outcome === "correct") return said.every((one) => one === data.labels[at]);
      if (outcome === "incorrect") return said.some((one) => one !== data.labels[at]);
      if (outcome === "disagree") {
        return runs.some((one) => data.answers.some(({ predicted }, other) =>
          data.variants[other] === data.variants[one]
            && predicted[at] !== data.answers[one].predicted[at]));
      }
      return true;
    });
    shown = 0;
    grid.replaceChildren();
    showMore();
  };

  for (const choice of filters) choice.addEventListener("change", filter);
  more.addEventListener("click", () => {
    const first = grid.children.length;
    showMore();
    grid.children[first]?.setAttribute("tabindex", "-1");
    grid.children[first]?.focus();
  });
  filter();
}
