// What the pages cannot do without a script: copy a value, and say whether what
// is shown is still live. Everything else works without.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch { // no clipboard without https: then it is selected, to be copied by hand
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
});

for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;

// Where the navigation is a row, the page that is shown may be out of sight.
const reveal = () => {
  const here = document.querySelector("nav [aria-current]");
  const row = here?.closest("nav");
  if (row) row.scrollLeft = here.offsetLeft - (row.clientWidth - here.offsetWidth) / 2;
};
addEventListener("resize", reveal);
reveal();

const pulse = document.getElementById("pulse");
const say = (live, text) => {
  if (!pulse) return;
  pulse.dataset.live = live;
  pulse.textContent = text;
};
document.addEventListener("htmx:sse:after:connection", () => say("yes", "Live"));
document.addEventListener("htmx:sse:error", () => say("no", "Not live: trying again"));
document.addEventListener("htmx:sse:close", () => say("", "Final"));
