/* Makes elements. A text is only ever set as text, so nothing that a model or a person wrote can become markup. */

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children. A function is what happens on the event of its name; a string is a text. */
export function element(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same for a part of a picture. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

/** Show one of several sections, and hide the others. */
export function turnTo(section, ...others) {
  for (const other of others) other.hidden = true;
  section.hidden = false;
}

/** A button that is no form's. */
export function button(words, look, click, attributes = {}, ...children) {
  return element("button", { type: "button", class: look, click, ...attributes }, words, ...children);
}

/** A switch: a checkbox with words behind it. */
export function toggle(words, isOn, onChange) {
  const change = () => onChange(box.checked);
  const box = element("input", { type: "checkbox", role: "switch", checked: isOn, change });
  return element("label", { class: "switch" }, box, element("span", {}, words));
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
