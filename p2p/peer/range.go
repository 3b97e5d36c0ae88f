package peer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var (
	errRange      = errors.New("not one range of bytes")
	errOutOfRange = errors.New("range begins behind the end")
)

// parseRange reads the value of a Range header for a blob of size bytes. An
// empty one stands for the whole blob. The result lies inside the blob and
// holds a byte, unless the blob is empty and was wanted whole.
func parseRange(s string, size int64) (off, n int64, err error) {
	if s == "" {
		return 0, size, nil
	}
	spec, ok := strings.CutPrefix(s, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash {
		return 0, 0, errRange
	}
	if first == "" { // the last n bytes
		n, err := position(last)
		if err != nil {
			return 0, 0, err
		}
		if n = min(n, size); n == 0 {
			return 0, 0, errOutOfRange
		}
		return size - n, n, nil
	}
	if off, err = position(first); err != nil {
		return 0, 0, err
	}
	end := size - 1
	if last != "" {
		if end, err = position(last); err != nil {
			return 0, 0, err
		}
		if end < off {
			return 0, 0, errRange
		}
	}
	if off >= size {
		return 0, 0, errOutOfRange
	}
	return off, min(end, size-1) - off + 1, nil
}

// position reads a number that has digits only.
func position(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || s[0] == '+' {
		return 0, errRange
	}
	return int64(n), nil
}

func contentRange(off, n, size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, size)
}

// parseContentRange reads what contentRange wrote.
func parseContentRange(s string) (off, n, size int64, err error) {
	fail := func() (int64, int64, int64, error) {
		return 0, 0, 0, fmt.Errorf("Content-Range %.100q: %w", s, errRange)
	}
	spec, ok := strings.CutPrefix(s, "bytes ")
	span, total, slash := strings.Cut(spec, "/")
	first, last, dash := strings.Cut(span, "-")
	if !ok || !slash || !dash {
		return fail()
	}
	var end int64
	for _, p := range []struct {
		to   *int64
		text string
	}{{&off, first}, {&end, last}, {&size, total}} {
		if *p.to, err = position(p.text); err != nil {
			return fail()
		}
	}
	if end < off || end >= size {
		return fail()
	}
	return off, end - off + 1, size, nil
}
