// A number on the board leads to its runs: they are opened where they lie.
function openRuns() {
  const runs = document.getElementById(location.hash.slice(1));
  if (!(runs instanceof HTMLDetailsElement)) return;
  runs.open = true;
  runs.scrollIntoView();
}
window.addEventListener("hashchange", openRuns);
openRuns();
