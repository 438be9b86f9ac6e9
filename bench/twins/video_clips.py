"""Twin of bench/data.ts: random clips through PyAV, as data loaders of the field read them.

One process decodes the clips named on standard input (a JSON list of {file, first, frames} with
first and frames as numbers of frames) and prints how many a second. The way is the usual one: open,
seek to the key frame before the first frame, decode to the last, let swscale resize each kept frame
to cover the crop, cut it out.
"""

import json
import sys
import time

import av
import numpy as np


def read_clip(file, first, frames, size, interpolation):
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # the processes are the parallelism
        rate = stream.average_rate
        base = stream.time_base
        start = stream.start_time or 0
        if first > 0:
            container.seek(start + int(first / rate / base), stream=stream)
        out = np.empty((frames, size, size, 3), np.uint8)
        kept = 0
        for frame in container.decode(stream):
            number = round((frame.pts - start) * base * rate)
            if number < first:
                continue
            scale = max(size / frame.width, size / frame.height)
            width, height = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
            rgb = frame.reformat(width, height, "rgb24", interpolation=interpolation).to_ndarray()
            top, left = (height - size) // 2, (width - size) // 2
            out[kept] = rgb[top : top + size, left : left + size]
            kept += 1
            if kept == frames:
                break
        return out[:kept]


def main():
    task = json.load(sys.stdin)
    clips, size = task["clips"], task["size"]
    for clip in clips[:4]:
        read_clip(clip["file"], clip["first"], clip["frames"], size, task["interpolation"])
    begin = time.perf_counter()
    busy = time.process_time()
    total, digest = 0, 0
    for clip in clips:
        made = read_clip(clip["file"], clip["first"], clip["frames"], size, task["interpolation"])
        total += len(made) == clip["frames"]
        digest += int(made.sum(dtype=np.int64))
    seconds = time.perf_counter() - begin
    json.dump({"clips": len(clips), "whole": total, "seconds": seconds, "cpu": time.process_time() - busy, "mean": digest / max(1, len(clips) * task["size"] ** 2 * 3 * clips[0]["frames"])}, sys.stdout)


main()
