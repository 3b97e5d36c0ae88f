package flate

import "math/bits"

// entry is what a code stands for:
//
//	bits 0-3    length of the code
//	bits 4-7    number of extra bits that follow it
//	bits 8-11   flags
//	bits 16-31  literal, least length or distance, or where a subtable begins
type entry uint32

const (
	flagLiteral = 1 << 8
	flagSpecial = 1 << 9  // the end of the block, a subtable, or nothing
	flagEnd     = 1 << 10 // with flagSpecial
	flagSub     = 1 << 11 // with flagSpecial
)

// code returns the bits of the code alone.
func (e entry) code() uint { return uint(e & 15) }

// extra returns the number of extra bits.
func (e entry) extra() uint { return uint(e>>4) & 15 }

func (e entry) value() int { return int(e >> 16) }

const (
	maxCode      = 15 // bits
	literalBits  = 11 // that the first lookup takes
	distanceBits = 8
	lengthCodes  = 19

	maxLiterals  = 286
	maxDistances = 30

	// A subtable is for all codes with the same first bits, two at least.
	literalEntries  = 1<<literalBits + (maxLiterals+2)/2<<(maxCode-literalBits)
	distanceEntries = 1<<distanceBits + (maxDistances+2)/2<<(maxCode-distanceBits)
)

type (
	literalTable  [literalEntries]entry
	distanceTable [distanceEntries]entry
)

// build fills table for codes of the given lengths; width is how many bits the first
// lookup takes, symbols what each code stands for. It returns how many bits a
// lookup in a subtable takes, and false if no encoder makes such codes: they must
// use up all that there is, but there may be a single one of one bit, or none.
func build(table []entry, width uint, lengths []uint8, symbols []entry) (sub uint, ok bool) {
	var count, next [maxCode + 1]int
	for _, n := range lengths {
		count[n]++
	}
	count[0] = 0
	longest, code := uint(0), 0
	for n := 1; n <= maxCode; n++ {
		code = (code + count[n-1]) << 1
		next[n] = code
		if count[n] > 0 {
			longest = uint(n)
		}
	}
	single := longest == 1 && count[1] == 1
	if longest > 0 && !single && next[longest]+count[longest] != 1<<longest {
		return 0, false
	}
	if longest == 0 || single {
		for i := range table[:1<<width] {
			table[i] = flagSpecial
		}
	}
	if longest > width {
		sub = longest - width
	}
	free := 1 << width // where the next subtable begins
	var known [1 << literalBits]bool
	for symbol, length := range lengths {
		if length == 0 {
			continue
		}
		n := uint(length)
		reversed := int(bits.Reverse16(uint16(next[n])) >> (16 - n))
		next[n]++
		e := symbols[symbol] | entry(n)
		if n <= width {
			for i := reversed; i < 1<<width; i += 1 << n {
				table[i] = e
			}
			continue
		}
		prefix := reversed & (1<<width - 1)
		if !known[prefix] {
			known[prefix] = true
			table[prefix] = entry(free)<<16 | flagSpecial | flagSub
			free += 1 << sub
		}
		at := table[prefix].value()
		for i := reversed >> width; i < 1<<sub; i += 1 << (n - width) {
			table[at+i] = e
		}
	}
	return sub, true
}

// What codes stand for.
var (
	literals  [maxLiterals + 2]entry
	distances [maxDistances + 2]entry
	numbers   [lengthCodes]entry
)

// Of a block with fixed codes.
var (
	fixedLiterals  literalTable
	fixedDistances distanceTable
)

func init() {
	for i := range 256 {
		literals[i] = entry(i)<<16 | flagLiteral
	}
	literals[256] = flagSpecial | flagEnd
	length := 3
	for i := range 28 {
		extra := max(0, i/4-1)
		literals[257+i] = entry(length)<<16 | entry(extra)<<4
		length += 1 << extra
	}
	literals[285] = 258 << 16
	literals[286], literals[287] = flagSpecial, flagSpecial
	distance := 1
	for i := range maxDistances {
		extra := max(0, i/2-1)
		distances[i] = entry(distance)<<16 | entry(extra)<<4
		distance += 1 << extra
	}
	distances[30], distances[31] = flagSpecial, flagSpecial
	for i := range numbers {
		numbers[i] = entry(i) << 16
	}

	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	build(fixedLiterals[:], literalBits, lengths[:], literals[:])
	for i := range distances {
		lengths[i] = 5
	}
	build(fixedDistances[:], distanceBits, lengths[:len(distances)], distances[:])
}
