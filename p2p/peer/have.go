package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A have-map stream is frames: a byte that says the kind and, for those that
// carry pieces, the number of runs and for each run how many pieces lie between
// it and the one before and how long it is less one, all as uvarints.
type frame byte

const (
	frameAlive   frame = iota // nothing is new
	frameWhole                // these pieces are here and no others
	frameAdded                // these came
	frameRemoved              // these went
	frameGone                 // all of the blob went; the last frame
)

var errFrame = errors.New("have-map stream is malformed")

// carries reports whether frames of this kind list pieces.
func (f frame) carries() bool { return f == frameWhole || f == frameAdded || f == frameRemoved }

// appendFrame appends a frame of that kind; pieces is looked at only if it
// carries some.
func appendFrame(b []byte, kind frame, pieces *p2p.Have) []byte {
	b = append(b, byte(kind))
	if !kind.carries() {
		return b
	}
	var runs []byte
	n, next := uint64(0), 0
	for first, last := range pieces.Runs() {
		runs = binary.AppendUvarint(runs, uint64(first-next))
		runs = binary.AppendUvarint(runs, uint64(last-first))
		n, next = n+1, last+1
	}
	return append(binary.AppendUvarint(b, n), runs...)
}

// readFrame reads the next frame of a stream about a blob with that many
// pieces. The set is nil if the frame carries none.
func readFrame(r *bufio.Reader, pieces int) (frame, *p2p.Have, error) {
	c, err := r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	kind := frame(c)
	if kind > frameGone {
		return 0, nil, fmt.Errorf("kind %d: %w", c, errFrame)
	}
	if !kind.carries() {
		return kind, nil, nil
	}
	have, err := readRuns(r, pieces)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return kind, have, err
}

func readRuns(r *bufio.Reader, pieces int) (*p2p.Have, error) {
	runs, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	have, next := p2p.NewHave(pieces), uint64(0)
	for range runs { // each takes a piece at least, or fails
		gap, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, err
		}
		more, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, err
		}
		end := uint64(pieces)
		if gap >= end-next || more >= end-next-gap {
			return nil, fmt.Errorf("run behind piece %d of %d: %w", next, pieces, errFrame)
		}
		next += gap
		for range more + 1 {
			have.Add(int(next))
			next++
		}
	}
	return have, nil
}

// difference returns the frames that make old what it has become.
func difference(b []byte, old, now *p2p.Have) []byte {
	if old == nil || old.Len() != now.Len() {
		return appendFrame(b, frameWhole, now)
	}
	added, removed := p2p.NewHave(now.Len()), p2p.NewHave(now.Len())
	for i := range now.All() {
		if !old.Has(i) {
			added.Add(i)
		}
	}
	for i := range old.All() {
		if !now.Has(i) {
			removed.Add(i)
		}
	}
	if removed.Count() > 0 {
		b = appendFrame(b, frameRemoved, removed)
	}
	if added.Count() > 0 {
		b = appendFrame(b, frameAdded, added)
	}
	return b
}
