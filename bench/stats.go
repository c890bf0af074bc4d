package bench

import (
	"math"
	"slices"
)

// Spread is the median and the quartiles of a few figures.
type Spread struct {
	N      int
	Median float64
	Low    float64 // first quartile
	High   float64 // third quartile
}

// spread of xs; zero when there are none. Quartiles interpolate (type 7 of Hyndman and Fan).
func spread(xs []float64) Spread {
	if len(xs) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(xs))
	return Spread{len(s), quantile(s, 0.5), quantile(s, 0.25), quantile(s, 0.75)}
}

func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func mean(xs []float64) float64 {
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

func variance(xs []float64) float64 {
	m, sum := mean(xs), 0.0
	for _, x := range xs {
		sum += (x - m) * (x - m)
	}
	return sum / float64(len(xs)-1)
}

// pairedP is the two-sided p value of Student's test that the mean of xs (logarithms of paired ratios) is 0.
// With fewer than three, nothing can be said: 1.
func pairedP(xs []float64) float64 {
	n := float64(len(xs))
	if len(xs) < 3 {
		return 1
	}
	v := variance(xs)
	if v == 0 {
		return pOfZeroVariance(mean(xs))
	}
	return studentP(mean(xs)/math.Sqrt(v/n), n-1)
}

// welchP is that of Welch's test that as and bs have one mean.
func welchP(as, bs []float64) float64 {
	if len(as) < 3 || len(bs) < 3 {
		return 1
	}
	va, vb := variance(as)/float64(len(as)), variance(bs)/float64(len(bs))
	if va+vb == 0 {
		return pOfZeroVariance(mean(as) - mean(bs))
	}
	df := (va + vb) * (va + vb) / (va*va/float64(len(as)-1) + vb*vb/float64(len(bs)-1))
	return studentP((mean(as)-mean(bs))/math.Sqrt(va+vb), df)
}

func pOfZeroVariance(difference float64) float64 {
	if difference == 0 {
		return 1
	}
	return 0
}

// studentP is P(|T| > |t|) for Student's T with df degrees of freedom.
func studentP(t, df float64) float64 {
	return incompleteBeta(df/2, 0.5, df/(df+t*t))
}

// incompleteBeta is the regularised incomplete beta function by Lentz's continued fraction
// (Numerical Recipes, 6.4).
func incompleteBeta(a, b, x float64) float64 {
	if x <= 0 {
		return 0
	}
	if x >= 1 {
		return 1
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab - la - lb + a*math.Log(x) + b*math.Log1p(-x))
	if x < (a+1)/(a+b+2) {
		return front * betaFraction(a, b, x) / a
	}
	return 1 - front*betaFraction(b, a, 1-x)/b
}

func betaFraction(a, b, x float64) float64 {
	const tiny = 1e-300
	away := func(v float64) float64 {
		if math.Abs(v) < tiny {
			return tiny
		}
		return v
	}
	c, d := 1.0, 1/away(1-(a+b)*x/(a+1))
	h := d
	for m := 1.0; m < 300; m++ {
		even := m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		d = 1 / away(1+even*d)
		c = away(1 + even/c)
		h *= d * c
		odd := -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		d = 1 / away(1+odd*d)
		c = away(1 + odd/c)
		h *= d * c
		if math.Abs(d*c-1) < 1e-13 {
			break
		}
	}
	return h
}

// holm marks which of the p values are significant together at level alpha (Holm 1979).
func holm(ps []float64, alpha float64) []bool {
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case ps[a] < ps[b]:
			return -1
		case ps[a] > ps[b]:
			return 1
		}
		return 0
	})
	out := make([]bool, len(ps))
	for i, at := range order {
		if ps[at] > alpha/float64(len(ps)-i) {
			break
		}
		out[at] = true
	}
	return out
}
