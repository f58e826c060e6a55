// Elements, numbers as text, and lines.

const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

const svg = (width, height) => {
  const root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.setAttribute("preserveAspectRatio", "none");
  root.setAttribute("role", "img");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  root.append(path);
  return { root, path };
};

const count = (n) => Math.round(n).toLocaleString("en");

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

const bytes = (n) => {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit += 1) n /= 1000;
  return `${unit && n < 100 ? n.toPrecision(2 + (n >= 10)) : Math.round(n)} ${units[unit]}`;
};

const duration = (seconds) => {
  if (!seconds) return "–";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return `${seconds.toPrecision(3)} s`;
};

const age = (seconds) => {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
};

const number = (value) =>
  value === 0 ? "0" : (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? value.toPrecision(4) : value.toExponential(2));

// Latency per second as a line that is broken where there was no request.
const spans = ({ hits, latency }, high) => {
  let path = "";
  for (let i = 0; i < hits.length; i += 1) {
    if (!hits[i]) continue;
    const x = ((i / (hits.length - 1)) * 138).toFixed(1);
    const y = (21 - (latency[i] / high) * 20).toFixed(1);
    path += `${hits[i - 1] ? "L" : "M"}${x} ${y}`;
    if (!hits[i - 1] && !hits[i + 1]) path += "h1.5";
  }
  return path;
};
