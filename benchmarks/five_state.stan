// Log-likelihood of the five-state problem, one parameter vector per patient (natural logarithms).
// States: D, N, E, M, B; where logs is 1 the logarithms of all but M. See problems.py for the
// equations and units.
functions {
  vector rates(real t, vector z, vector p, int logs) {
    real d = logs ? exp(z[1]) : z[1];
    real n = logs ? exp(z[2]) : z[2];
    real e = logs ? exp(z[3]) : z[3];
    real b = logs ? exp(z[5]) : z[5];
    real total = n + e + z[4];
    real growth_n = p[3] * log(p[4] / total) - p[2] * d;
    real growth_e = p[5] * b / (b + 10) / (1 + square(total / p[6])) - p[7] - p[8];
    real growth_b = p[10] * (1 - b / 3000) - p[11] * e / (p[12] + e);
    real rate_m = p[8] * e - p[9] * z[4];
    if (logs) {
      return [-p[1], growth_n, growth_e, rate_m, growth_b]';
    }
    return [-p[1] * d, growth_n * n, growth_e * e, rate_m, growth_b * b]';
  }
}
data {
  int patients;
  int outputs;
  int segments;
  int grid_points;
  array[segments] real start; // day
  array[segments, 5] real bolus; // none into M
  array[segments] int first; // first and last point of the grid in each segment
  array[segments] int last;
  array[grid_points] real grid; // day
  array[grid_points] int output; // index of the output time, or 0
  array[patients] vector[outputs] observed; // ln(E+M)
  real residual_sd;
  int logs;
  real tiny;
  real rtol;
  real atol;
  int max_steps;
}
parameters {
  array[patients] vector[12] theta;
}
model {
  for (i in 1 : patients) {
    vector[12] p = exp(theta[i]);
    vector[outputs] simulated;
    vector[5] z = logs ? [log(tiny), theta[i][4], log(tiny), 0, log(100.0)]'
                  : [0, p[4], 0, 0, 100]';
    for (s in 1 : segments) {
      for (k in 1 : 5) {
        if (bolus[s, k] > 0) {
          z[k] = logs ? log(exp(z[k]) + bolus[s, k]) : z[k] + bolus[s, k];
        }
      }
      array[last[s] - first[s] + 1] vector[5] path
        = ode_rk45_tol(rates, z, start[s], grid[first[s] : last[s]], rtol, atol, max_steps, p,
                       logs);
      for (g in first[s] : last[s]) {
        if (output[g] > 0) {
          vector[5] state = path[g - first[s] + 1];
          simulated[output[g]] = log((logs ? exp(state[3]) : state[3]) + state[4]);
        }
      }
      z = path[last[s] - first[s] + 1];
    }
    target += normal_lpdf(observed[i] | simulated, residual_sd);
  }
}
