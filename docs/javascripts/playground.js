// The figures of the playground: the formulas of the note, drawn with
// Observable Plot. Figures are redrawn from the sliders alone, so that what
// they show follows from what they say.

const COLORS = ["var(--kg-a)", "var(--kg-b)", "var(--kg-c)"];
const DRAWS = 1500;

const element = (id) => document.getElementById(id);

// The value a slider stands for; temperatures are moved on a log scale.
function read(id) {
  const slider = element(id);
  const value = slider.valueAsNumber;
  return slider.dataset.scale === "exp" ? Math.exp(value) : value;
}

const uniform = () => (Math.floor(Math.random() * 2 ** 32) + 0.5) / 2 ** 32;
const gumbel = () => -Math.log(-Math.log(uniform())); // Eq. (3)
const logit = (p) => Math.log(p) - Math.log1p(-p);
const sum = (values) => values.reduce((total, value) => total + value, 0);

function softmax(x) {
  const top = Math.max(...x);
  const shares = x.map((value) => Math.exp(value - top));
  return shares.map((share) => share / sum(shares)); // Eq. (4)
}

// Eq. (15)
function gumbelSoftmax(x, noise, temperature) {
  const perturbed = x.map((value, k) => value + noise[k]);
  const top = Math.max(...perturbed);
  return softmax(perturbed.map((value) => (value - top) / temperature));
}

// The density of Eq. (26): that of a logistic variable at
// temperature logit(m) - logit(s), times its slope in m.
function maskDensity(m, s, temperature) {
  const e = temperature * logit(m) - logit(s);
  const half = Math.exp(-Math.abs(e));
  return ((half / (1 + half) ** 2) * temperature) / (m * (1 - m));
}

const clip = (value) => Math.min(Math.max(value, 0), 1);

// Eqs. (29)-(33): lambda is 0, or where the clipped scores add up to K.
function project(z, budget) {
  const total = (shift) => sum(z.map((value) => clip(value - shift)));
  let [low, high] = [0, Math.max(0, ...z)];
  if (total(0) <= budget) high = 0;
  for (let halving = 0; halving < 60; halving += 1) {
    const middle = (low + high) / 2;
    if (total(middle) > budget) low = middle;
    else high = middle;
  }
  return { shift: high, scores: z.map((v) => clip(v - high)), total };
}

function show(id, options, description) {
  const figure = element(id);
  const plot = Plot.plot({
    width: Math.max(figure.clientWidth, 240),
    marginBottom: 42,
    marginTop: 30,
    style: { background: "none", fontSize: "13px" },
    ...options,
  });
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", description);
  figure.replaceChildren(plot);
  return plot;
}

const state = { noise: [], z: [] };
const percent = (share) => `${(100 * share).toFixed(0)}\u00a0%`;

const CORNERS = [[0, 0], [1, 0], [0.5, Math.sqrt(3) / 2]];
const NAMES = ["A", "B", "C"];

function drawSimplex() {
  const x = ["simplex-x1", "simplex-x2", "simplex-x3"].map(read);
  const temperature = read("simplex-temperature");
  const samples = state.noise.map((z) => gumbelSoftmax(x, z, temperature));
  const winners = samples.map((y) => y.indexOf(Math.max(...y)));
  const points = samples.map((y, i) => ({
    x: sum(y.map((share, k) => share * CORNERS[k][0])),
    y: sum(y.map((share, k) => share * CORNERS[k][1])),
    winner: winners[i],
  }));
  const width = Math.min(element("simplex-figure").clientWidth, 520);
  const words =
    "Nearest to the corners are " +
    NAMES.map((name, k) => {
      const count = winners.filter((winner) => winner === k).length;
      return `${name}: ${percent(count / DRAWS)}`;
    }).join(", ") +
    "; the softmax of the logits is " +
    softmax(x)
      .map((share, k) => `${NAMES[k]}: ${percent(share)}`)
      .join(", ") +
    ".";
  show(
    "simplex-figure",
    {
      width,
      height: width * 0.95,
      margin: 28,
      axis: null,
      x: { domain: [0, 1] },
      y: { domain: [0, Math.sqrt(3) / 2] },
      marks: [
        Plot.line([...CORNERS, CORNERS[0]], { stroke: "currentColor" }),
        Plot.dot(points, {
          x: "x",
          y: "y",
          r: 3,
          // Told apart without color as well.
          symbol: (point) => ["circle", "triangle", "diamond"][point.winner],
          fill: (point) => COLORS[point.winner],
          fillOpacity: 0.55,
        }),
        ...CORNERS.map((corner, k) =>
          Plot.text([corner], {
            text: () => NAMES[k],
            dy: k === 2 ? -14 : 14,
            fontSize: 16,
            fontWeight: "bold",
            fill: "currentColor",
          }),
        ),
      ],
      symbol: { type: "identity" },
      color: { type: "identity" },
    },
    `Samples on the simplex at temperature ${temperature.toFixed(2)}. ${words}`,
  );
  element("simplex-words").textContent = words;
}

function drawMask() {
  const [s, temperature] = [read("mask-s"), read("mask-temperature")];
  const curve = d3.range(0.002, 0.9985, 0.002).map((m) => ({
    m,
    density: maskDensity(m, s, temperature),
  }));
  const words = `P(m > 1/2) = ${s.toFixed(2)}, the score.`;
  const channels = { x: "m", y: "density", clip: true };
  show(
    "mask-figure",
    {
      height: 280,
      marginLeft: 50,
      x: { domain: [0, 1], label: "m", labelOffset: 36 },
      y: { domain: [0, 4], grid: true, label: "density" },
      marks: [
        Plot.areaY(curve.filter(({ m }) => m >= 0.4995), {
          ...channels,
          fill: COLORS[0],
          fillOpacity: 0.3,
        }),
        Plot.line(curve, { ...channels, stroke: COLORS[0], strokeWidth: 2.5 }),
        Plot.ruleX([0.5], { strokeDasharray: "4 4" }),
        Plot.ruleY([0]),
      ],
    },
    `Density of the mask at temperature ${temperature.toFixed(2)}. ${words}`,
  );
  element("mask-words").textContent = words;
}

function drawBudget() {
  const budget = read("budget-k");
  const { shift, scores, total } = project(state.z, budget);
  const rows = state.z.map((z, i) => ({ i: i + 1, z, s: scores[i] }));
  const inside = scores.filter((s) => s > 0 && s < 1).length;
  const words =
    `λ = ${shift.toFixed(3)}; the scores add up to ` +
    `${sum(scores).toFixed(2)} of at most ${budget.toFixed(2)}. ` +
    `${scores.filter((s) => s === 0).length} are 0, ` +
    `${scores.filter((s) => s === 1).length} are 1, ${inside} in between.`;
  show(
    "budget-figure",
    {
      height: 280,
      x: { label: "score", labelOffset: 36 },
      y: { domain: [-0.3, 1.5], label: "z before (line), s after (bar)" },
      marks: [
        Plot.barY(rows, { x: "i", y: "s", fill: COLORS[0] }),
        Plot.tickY(rows, { x: "i", y: "z", stroke: COLORS[1], strokeWidth: 3 }),
        Plot.ruleY([0]),
        Plot.ruleY([1], { strokeDasharray: "4 4" }),
      ],
    },
    `Scores before and after the projection. ${words}`,
  );
  const curve = d3.range(0, 1.5001, 0.01).map((at) => [at, total(at)]);
  show(
    "lambda-figure",
    {
      height: 280,
      x: { domain: [0, 1.5], label: "λ", labelOffset: 36 },
      y: { domain: [0, 12], grid: true, label: "sum of clip(z - λ, 0, 1)" },
      marks: [
        Plot.line(curve, { stroke: COLORS[0], strokeWidth: 2.5 }),
        Plot.ruleY([budget], { stroke: COLORS[1], strokeWidth: 2 }),
        Plot.text([[1.5, budget]], {
          text: () => "K",
          textAnchor: "end",
          dy: -8,
          fill: "currentColor",
        }),
        Plot.ruleX([shift], { stroke: "currentColor", strokeDasharray: "4 4" }),
        Plot.dot([[shift, total(shift)]], { fill: "currentColor", r: 5 }),
        Plot.ruleY([0]),
      ],
    },
    `The sum of the scores falls with lambda. ${words}`,
  );
  element("budget-words").textContent = words;
}

function drawNoise() {
  state.noise = d3.range(DRAWS).map(() => [gumbel(), gumbel(), gumbel()]);
}

function takeStep() {
  state.z = d3.range(12).map(() => -0.25 + 1.65 * uniform());
}

const PANELS = {
  "simplex-panel": drawSimplex,
  "mask-panel": drawMask,
  "budget-panel": drawBudget,
};

function refresh(panel) {
  panel.querySelectorAll("input").forEach((slider) => {
    const value = read(slider.id).toFixed(2);
    slider.labels[0].querySelector("output").textContent = value;
    slider.setAttribute("aria-valuetext", value);
  });
  PANELS[panel.id]();
}

function refreshAll() {
  Object.keys(PANELS).forEach((id) => refresh(element(id)));
}

drawNoise();
takeStep();
Object.keys(PANELS).forEach((id) => {
  const panel = element(id);
  panel.addEventListener("input", () => refresh(panel));
});
element("simplex-again").addEventListener("click", () => {
  drawNoise();
  drawSimplex();
});
element("budget-again").addEventListener("click", () => {
  takeStep();
  drawBudget();
});
refreshAll();

// A figure takes the width of the page, which turns with the phone.
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) refreshAll();
  width = window.innerWidth;
});
