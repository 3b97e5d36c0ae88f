package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func TestImages(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		scope := ""
		end := func(url string, s store.State, digests ...string) {
			t.Helper()
			if _, err := db.CreateJob(ctx, by, store.Job{Kind: "image", URL: url, Scope: scope, Deadline: time.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			j := claim(t, db, "me", time.Minute)
			var blobs []store.JobBlob
			for _, d := range digests {
				blobs = append(blobs, store.JobBlob{Digest: d, Kind: "layer", Size: 3 << 40})
			}
			if err := db.SetJobBlobs(ctx, j, "manifest of "+url, blobs); err != nil {
				t.Fatal(err)
			}
			if err := db.EndJob(ctx, j, s, ""); err != nil {
				t.Fatal(err)
			}
		}
		end("a", store.Succeeded, "old")
		end("b", store.Succeeded, "x")
		end("a", store.Succeeded, "x", "y")
		end("a", store.Failed, "z")
		scope = `{"scope":"hosts","hosts":["\"layers\":"]}` // is all of it
		end("c", store.Succeeded)
		scope = `{"layers":["x"]}`
		end("a", store.Succeeded, "x")
		end("d", store.Succeeded, "x")
		want := []store.Image{
			{URL: "c", Digest: "manifest of c", Job: 5},
			{URL: "a", Digest: "manifest of a", Job: 3, Blobs: 2, Size: 6 << 40},
			{URL: "b", Digest: "manifest of b", Job: 2, Blobs: 1, Size: 3 << 40},
		}
		got, err := db.Images(ctx, store.Page{Limit: 9})
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(store.Image{}, "At")); diff != "" || err != nil {
			t.Error(err, diff)
		}
		if got, err := db.Images(ctx, store.Page{After: 5, Limit: 1}); err != nil || len(got) != 1 || got[0].Job != 3 || got[0].At.IsZero() {
			t.Errorf("the second page: %+v, %v", got, err)
		}
		of, err := db.ImagesOf(ctx, []string{"x", "z", "none"})
		if diff := cmp.Diff(map[string][]string{"x": {"a", "b", "d"}, "z": {"a"}}, of); diff != "" || err != nil {
			t.Error(err, diff)
		}
		if of, err := db.ImagesOf(ctx, nil); err != nil || len(of) != 0 {
			t.Errorf("of no blob: %v, %v", of, err)
		}
	})
}
