// The device's cameras: one at a time, shown in a video element.

const REASONS = {
  NotAllowedError: "the browser was not allowed to use it; permit it in the address bar, then open it again",
  NotFoundError: "there is none; choose an image instead",
  OverconstrainedError: "there is no such camera any more",
  NotReadableError: "another program is using it",
};

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

// Something to tell the person, in words.
export class CameraError extends Error {}

export class Camera {
  // `ended` is called when a camera goes away by itself.
  constructor(video, ended) {
    this.video = video;
    this.ended = ended;
    this.stream = null;
    this.attempts = 0;
  }

  get isOpen() {
    return this.stream !== null;
  }

  // Open a camera by its id; without one, that on the back of a phone. False: it was stopped before it was open.
  async open(id) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new CameraError("Browsers open cameras on https:// and localhost only; choose an image instead.");
    }
    this.stop();
    const attempt = this.attempts;
    const wanted = id ? { deviceId: { exact: id } } : { facingMode: "environment" };
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
      if (attempt !== this.attempts) {
        stopTracks(stream);
        return false;
      }
      this.stream = stream;
      const [track] = stream.getVideoTracks();
      track.addEventListener("ended", () => {
        if (this.stream !== stream) return;
        this.stop();
        this.ended();
      });
      this.video.srcObject = stream;
      await this.video.play();
      return attempt === this.attempts;
    } catch (error) {
      if (attempt !== this.attempts) return false;
      this.stop();
      throw new CameraError(`The camera cannot be opened: ${REASONS[error.name] ?? error.message}.`);
    }
  }

  stop() {
    this.attempts++;
    if (this.stream !== null) stopTracks(this.stream);
    this.stream = null;
    this.video.srcObject = null;
  }

  // {id, name} of all of them, and which one is open; names are known once one was permitted.
  async all() {
    const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    const open = this.stream?.getVideoTracks()[0]?.getSettings().deviceId;
    return devices.map(({ deviceId, label }, i) => ({
      id: deviceId,
      name: label || `Camera ${i + 1}`,
      isOpen: deviceId === open,
    }));
  }
}
