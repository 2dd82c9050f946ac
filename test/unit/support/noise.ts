// What a hostile network sends a codec: nothing, half, random bytes, and a sound message with one fault.
import fc from "fast-check";

/** The bytes cut off before each place, from none of them to all but one. */
export function everyTruncation(bytes: Uint8Array): Uint8Array[] {
  return Array.from({ length: bytes.length }, (_, length) => bytes.slice(0, length));
}

/** Each byte in turn with other bits. */
export function everyByteChanged(bytes: Uint8Array, mask = 0xff): Uint8Array[] {
  return Array.from(bytes, (byte, at) => bytes.with(at, byte ^ mask));
}

/** Random bytes, and pieces of a sound message with random bytes among them, which get further into a decoder. */
export function noise(sound: Uint8Array, mostBytes = 300): fc.Arbitrary<Uint8Array> {
  const piece = fc
    .tuple(fc.nat(sound.length), fc.nat(sound.length))
    .map(([a, b]) => sound.slice(Math.min(a, b), Math.max(a, b)));
  const spliced = fc
    .tuple(fc.nat(sound.length), fc.uint8Array({ maxLength: 8 }), fc.nat(sound.length))
    .map(([end, middle, start]) => Uint8Array.of(...sound.slice(0, end), ...middle, ...sound.slice(start)));
  const scribbled = fc
    .array(fc.tuple(fc.nat(Math.max(0, sound.length - 1)), fc.integer({ min: 0, max: 255 })), { maxLength: 4 })
    .map((changes) => changes.reduce((bytes, [at, byte]) => bytes.with(at, byte), sound));
  return fc.oneof(fc.uint8Array({ maxLength: mostBytes }), piece, spliced, scribbled);
}
