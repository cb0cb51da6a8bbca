// Renders what pymdownx.arithmatex marks as formulas, with KaTeX.
document.querySelectorAll(".arithmatex").forEach((element) => {
  const text = element.textContent.trim(); // \(...\) or \[...\]
  katex.render(text.slice(2, -2), element, {
    displayMode: text.startsWith("\\["),
    throwOnError: true,
  });
});
