package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func TestJobHours(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		end := func(s store.State, blobs ...int64) {
			t.Helper()
			mustJob(t, db, "https://r/v2/a/manifests/1")
			j := claim(t, db, "me", time.Minute)
			var rows []store.JobBlob
			for i, n := range blobs {
				rows = append(rows, store.JobBlob{Digest: string(rune('a' + i)), Kind: "layer", Size: n, Got: n, State: store.Succeeded})
			}
			if err := db.SetJobBlobs(ctx, j, "m", rows); err != nil {
				t.Fatal(err)
			}
			for _, b := range rows {
				if err := db.UpdateJobBlob(ctx, j, b); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.EndJob(ctx, j, s, ""); err != nil {
				t.Fatal(err)
			}
		}
		end(store.Succeeded, 3<<40, 10)
		end(store.Succeeded)
		end(store.Failed, 5)
		end(store.Cancelled)
		mustJob(t, db, "https://r/v2/a/manifests/1")
		now := time.Now()
		hours, err := db.JobHours(ctx, now, 3)
		if err != nil {
			t.Fatal(err)
		}
		start := now.UTC().Truncate(time.Hour)
		want := []store.JobHour{
			{Start: start.Add(-2 * time.Hour)}, {Start: start.Add(-time.Hour)}, {Start: start, Succeeded: 2, Failed: 1, Cancelled: 1, Bytes: 3<<40 + 15},
		}
		if diff := cmp.Diff(want, hours); diff != "" {
			t.Error(diff)
		}
		if hours, err := db.JobHours(ctx, now.Add(5*time.Hour), 3); err != nil || hours[0].Succeeded != 0 {
			t.Errorf("five hours later: %+v, %v", hours, err)
		}
	})
}
