// A picture opens by itself, where it can be magnified; wide ones are told apart.
for (const picture of document.querySelectorAll("article img")) {
  picture.decode().then(() => {
    if (picture.naturalWidth > 1.8 * picture.naturalHeight) picture.classList.add("wide");
  });
  if (picture.closest("a")) continue;
  const link = document.createElement("a");
  link.href = picture.src;
  picture.replaceWith(link);
  link.append(picture);
}

// Names are not broken at their hyphens, but where a phone has no room for them.
for (const name of document.querySelectorAll("article code .pre")) {
  if (name.textContent.length > 36) name.style.whiteSpace = "normal";
}
