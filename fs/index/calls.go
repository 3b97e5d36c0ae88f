package index

import "math/bits"

// Calls in the machine code of x86 say how far away their target is, so that each
// call of the same function has other bytes. In a boot pack they say where the
// target is, which repeats, and comes out a twentieth smaller. What looks like a call
// and is none is changed alike, and back.

// absolute makes absolute addresses of what look like the relative ones of calls and
// jumps in p, which is at off in its file. It begins at the end and relative at the
// beginning: so each change is undone while all that comes behind is as it was when
// it was made.
func absolute(p []byte, off int64) {
	for i := len(p) - 5; i >= 0; i-- {
		if isCall(p, i) {
			to := le.Uint32(p[i+1:]) + uint32(off) + uint32(i)
			putAddress(p[i+1:], bits.ReverseBytes32(to<<8))
			p[i+4] = sign(to)
		}
	}
}

// relative undoes absolute.
func relative(p []byte, off int64) {
	for i := 0; i+5 <= len(p); i++ {
		if isCall(p, i) {
			by := bits.ReverseBytes32(le.Uint32(p[i+1:]))>>8 | uint32(p[i+4])<<24
			by -= uint32(off) + uint32(i)
			putAddress(p[i+1:], by)
			p[i+4] = sign(by)
		}
	}
}

// isCall says whether a call or jump by less than 16 MiB may begin at p[i].
func isCall(p []byte, i int) bool {
	return p[i]&0xfe == 0xe8 && (p[i+4] == 0 || p[i+4] == 0xff)
}

// putAddress puts the lower 24 bits of v into p.
func putAddress(p []byte, v uint32) { p[0], p[1], p[2] = byte(v), byte(v>>8), byte(v>>16) }

// sign is the highest byte of a number of 25 bits.
func sign(v uint32) byte { return -byte(v >> 24 & 1) }
