package migrations

import "testing"

func TestFor_BothEnginesHaveTheSameSteps(t *testing.T) {
	a, err := For(SQLite)
	if err != nil {
		t.Fatal(err)
	}
	b, err := For(Postgres)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) == 0 || len(a) != len(b) {
		t.Fatalf("%d steps for SQLite, %d for PostgreSQL", len(a), len(b))
	}
	for i := range a {
		if a[i].Number != b[i].Number || a[i].Name != b[i].Name {
			t.Errorf("step %d: %04d_%s and %04d_%s", i+1, a[i].Number, a[i].Name, b[i].Number, b[i].Name)
		}
	}
}
