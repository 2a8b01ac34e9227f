// A picture from the camera, where the browser has one and the page may use it.

export class Camera {
  #stream = null;

  /** @param {(id: string) => HTMLElement} find by id @param {(file: File) => void} take */
  constructor(find, take) {
    this.take = take;
    [this.button, this.video] = [find("camera"), find("camera-video")];
    this.button.hidden = !navigator.mediaDevices?.getUserMedia;
    this.button.addEventListener("click", () => (this.#stream ? this.#shoot() : this.#open()));
    addEventListener("keydown", ({ key }) => key === "Escape" && this.close());
  }

  async #open() {
    this.button.disabled = true; // a second click would start a second stream
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch (error) {
      this.button.textContent = error.name === "NotAllowedError" ? "Camera not allowed" : "No camera";
      this.button.disabled = false;
      return;
    }
    this.video.srcObject = this.#stream;
    this.video.hidden = false;
    this.button.textContent = "Take the picture";
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "AbortError") throw error; // closed meanwhile
    } finally {
      this.button.disabled = false;
    }
  }

  #shoot() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    this.close();
    const take = (blob) => blob && this.take(new File([blob], "camera.jpg", { type: blob.type }));
    canvas.toBlob(take, "image/jpeg", 0.95);
  }

  close() {
    if (!this.#stream) return;
    for (const track of this.#stream.getTracks()) track.stop();
    this.#stream = this.video.srcObject = null;
    this.video.hidden = true;
    this.button.textContent = "Camera";
  }
}
