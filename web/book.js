// The bibliography is marked as a list whose items are none; screen readers do better without the mark.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll('.citation-list[role="list"]').forEach((list) => list.removeAttribute("role"));
});
