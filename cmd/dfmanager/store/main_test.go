package store_test

import (
	"os"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }
