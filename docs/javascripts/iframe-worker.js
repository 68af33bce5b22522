// Search for a site opened from disk. Browsers start no Worker on a file:// page, so the theme's
// search script runs in a hidden frame instead. The frame's window plays the part of the worker's
// global scope: it receives "message" events, and its postMessage answers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      const script = document.createElement("script")
      script.src = new URL(url, document.baseURI).href
      this.frame.srcdoc = script.outerHTML
      this.ready = new Promise((resolve) => this.frame.addEventListener("load", resolve))
      document.body.append(this.frame)
    }

    async postMessage(data) {
      await this.ready
      const scope = this.frame.contentWindow
      scope.postMessage = (answer) => {
        this.dispatchEvent(new MessageEvent("message", { data: answer }))
      }
      scope.dispatchEvent(new scope.MessageEvent("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
