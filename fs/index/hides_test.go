package index_test

import (
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

func TestHides(t *testing.T) {
	for name, tt := range map[string]struct {
		entries []indextest.Entry
		want    bool
	}{
		"nothing":         {indextest.Lowest(), false},
		"a whiteout":      {[]indextest.Entry{indextest.File("a/.wh.b", nil)}, true},
		"an opaque":       {[]indextest.Entry{indextest.File("a/b", nil), indextest.File("a/.wh..wh..opq", nil)}, true},
		"an opaque root":  {[]indextest.Entry{indextest.File(".wh..wh..opq", nil)}, true},
		"replaced by all": {[]indextest.Entry{indextest.File(".wh.a", nil), indextest.File("a", []byte("a"))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			x := mustBuild(t, indextest.Tar(tt.entries...), index.Options{})
			if got := x.Hides(); got != tt.want {
				t.Errorf("Hides is %v", got)
			}
		})
	}
}
