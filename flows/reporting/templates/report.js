// The models are in the page, in Base64. This script shows them, and offers copies of them and of the images in the page
// as downloads where a link has no address.
"use strict";
{
  const viewer = document.querySelector("model-viewer");
  const buttons = (name) => [...document.querySelectorAll(`[${name}]`)];
  const models = new Map(buttons("data-file").filter((element) => element.localName === "script")
    .map((element) => [element.dataset.file, Uint8Array.from(atob(element.textContent), (sign) => sign.charCodeAt(0))]));
  const url = (bytes) => URL.createObjectURL(new Blob([bytes], { type: "model/gltf-binary" }));

  // Return a copy of a GLB file whose material is lit and has no texture, so that its shape can be judged.
  function untextured(bytes) {
    const copy = bytes.slice();
    const length = new DataView(copy.buffer).getUint32(12, true);
    const json = copy.subarray(20, 20 + length);  // the first chunk; the rest keeps its place
    const file = JSON.parse(new TextDecoder().decode(json));
    file.materials = [{ pbrMetallicRoughness: { baseColorFactor: [0.3, 0.3, 0.3, 1], metallicFactor: 0, roughnessFactor: 0.8 } }];
    delete file.extensionsUsed;
    json.set(new TextEncoder().encode(JSON.stringify(file).padEnd(length)));
    return copy;
  }

  let model = [...models.keys()][0];
  let look = "texture";
  const addresses = new Map();
  function show() {
    const key = `${look} ${model}`;
    if (!addresses.has(key)) addresses.set(key, url(look === "shape" ? untextured(models.get(model)) : models.get(model)));
    viewer.src = addresses.get(key);
    for (const button of buttons("data-look")) button.ariaPressed = button.dataset.look === look;
    for (const button of buttons("data-model")) button.ariaPressed = button.dataset.model === model;
  }
  for (const button of buttons("data-look")) button.onclick = () => { look = button.dataset.look; show(); };
  for (const button of buttons("data-model")) button.onclick = () => { model = button.dataset.model; show(); };
  document.getElementById("turn").onclick = (event) => {
    viewer.autoRotate = !viewer.autoRotate;
    event.target.ariaPressed = viewer.autoRotate;
  };
  document.getElementById("front").onclick = () => {
    viewer.resetTurntableRotation();
    viewer.cameraOrbit = "0deg 75deg auto";
    viewer.fieldOfView = "auto";
    viewer.jumpCameraToGoal();
  };
  viewer.addEventListener("error", () => { document.querySelector(".failure").hidden = false; });
  show();

  for (const link of document.querySelectorAll("a[download]:not([href])")) {
    const shown = buttons("data-file").find((element) => element.dataset.file === link.download);
    link.href = shown.src || url(models.get(link.download));
  }
}
