package keeper

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// newTestTable returns a table and a function that maps the same memory once more, as
// the next keeper does.
func newTestTable(t *testing.T) (tab *table, reopen func() *table) {
	t.Helper()
	fd, err := NewTable("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	reopen = func() *table {
		tab, err := openTable(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tab.close)
		return tab
	}
	return reopen(), reopen
}

// request makes one of a header and some bytes.
func request(op uint32, id uint64) []byte {
	b := make([]byte, requestHeader+8)
	binary.NativeEndian.PutUint32(b[offLen:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[offOpcode:], op)
	binary.NativeEndian.PutUint64(b[offUnique:], id)
	return b
}

func (t *table) read(test *testing.T, req []byte) int32 {
	test.Helper()
	i, ok := t.reserve()
	if !ok {
		test.Fatal("no slot is free")
	}
	copy(t.slot(i), req)
	return i
}

func (t *table) ids() (ids []uint64) {
	for _, i := range t.all() {
		ids = append(ids, t.unique(i))
	}
	return ids
}

const opRead, opLookup = 15, 1

func TestTableOutlivesKeeper(t *testing.T) {
	tab, reopen := newTestTable(t)
	for _, id := range []uint64{10, 4, 8, 6} {
		tab.record(tab.read(t, request(opRead, id)))
	}
	tab.done(8)
	tab.done(1000)
	tab.read(t, request(opLookup, 12)) // read, and then the keeper died
	next := reopen()
	if got, want := next.ids(), []uint64{10, 4, 6, 12}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	next.record(next.read(t, request(opRead, 14)))
	next.done(10)
	last := reopen()
	if got, want := last.ids(), []uint64{4, 6, 12, 14}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := len(last.free) + last.len(); got != slots {
		t.Errorf("%d slots, want %d", got, slots)
	}
}

func TestTableForgetsWhatNeedsNoAnswer(t *testing.T) {
	for name, req := range map[string][]byte{
		"nothing read": nil,
		"forget":       request(opForget, 2),
		"batch forget": request(opBatchForget, 2),
		"interrupt":    request(opInterrupt, 3),
	} {
		t.Run(name, func(t *testing.T) {
			tab, reopen := newTestTable(t)
			tab.read(t, req)
			if got := reopen().ids(); got != nil {
				t.Errorf("kept %v", got)
			}
		})
	}
}

func TestTableFull(t *testing.T) {
	tab, _ := newTestTable(t)
	for i := range uint64(slots) {
		tab.record(tab.read(t, request(opRead, 2*i)))
	}
	if _, ok := tab.reserve(); ok {
		t.Fatal("reserved more than there is")
	}
	tab.done(2 * 4000)
	select {
	case <-tab.room:
	default:
		t.Error("nobody is told of the free slot")
	}
	i := tab.read(t, nil)
	if tab.length(i) != 0 {
		t.Error("a reserved slot holds an old request")
	}
}

func TestTableInterrupts(t *testing.T) {
	tab, _ := newTestTable(t)
	tab.interrupt(4)
	tab.record(tab.read(t, request(opRead, 4)))
	if tab.interrupted(4) {
		t.Error("interrupted before it was there")
	}
	tab.interrupt(4)
	if !tab.interrupted(4) {
		t.Error("not interrupted")
	}
	tab.done(4)
	if tab.interrupted(4) || tab.waiting(4) {
		t.Error("remembered after its end")
	}
}

func TestTableRefused(t *testing.T) {
	fd, err := sealed("small", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := openTable(fd); err == nil {
		t.Error("took a file of the wrong size")
	}
}
